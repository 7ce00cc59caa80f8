"""`dhhpc scale allocate`: which ranks to ask for, by what runs measured."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.batch.site import Watts
    from dhhpc.scaling.resources.allocation import Kind, Policy
    from dhhpc.scaling.resources.calibration import MeasuredKind


def allocate(
    runs: Annotated[
        list[str], typer.Argument(metavar="[NAME=]RUN...", help="Run folders, named after their nodes.")
    ],
    objective: Annotated[str, typer.Option(help="What shall be least: time, core-hours or energy.")] = "time",
    deadline: Annotated[
        str | None, typer.Option(help="The run takes at most this, as SLURM writes it: 02:00:00.")
    ] = None,
    core_hours: Annotated[
        float | None, typer.Option(help="The run takes at most so many core-hours.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the training; the experiment's by default.")] = None,
    available: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]COUNT", help="Ranks or nodes to choose from; as in the run by default."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Choose ranks one by one, or by the node (the default where a run had several)."),
    ] = None,
    watts: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]BUSY:IDLE", help="What a rank (a node) draws, computing and waiting."),
    ] = None,
    site: Annotated[
        str | None, typer.Option(help="A site whose `node` has `watts`, where --watts tells nothing.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="The partition; the site's first by default.")] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Print all choices, however many others are better than.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all choices as JSON.")] = False,
) -> None:
    """Weigh time against core-hours and energy: which ranks to ask for, and how they share a batch.

    The pace of each rank comes from runs of one experiment, best with `parallel.split: measured`: one run, or
    one on each kind of node. The table forecasts the training on every number of ranks of every kind.

    Example: dhhpc scale allocate thin=runs/thin fat=runs/fat --objective core-hours --deadline 02:00:00
    """
    import json

    from dhhpc.cli import allocation_table
    from dhhpc.scaling.resources import allocation
    from dhhpc.scaling.resources.calibration import kinds_of, read_measured, work_of

    policy = policy_of(objective, deadline, core_hours)
    if epochs is not None and epochs < 1:
        raise DhhpcError(f"--epochs {epochs}: must be at least 1")
    if by not in (None, "rank", "node"):
        raise DhhpcError(f"--by {by}: choose rank or node")
    measured = [read_measured(folder, name) for name, folder in map(named_run, runs)]
    work = work_of(measured, epochs)
    by_node = by == "node" or (by is None and any(len(run.content["hosts"]) > 1 for run in measured))
    found = kinds_of(measured, by_node)
    kinds = with_power(with_available(found, available or []), found, watts or [], site, partition, by_node)
    choices, chosen = allocation.allocate(kinds, work, policy)
    table = allocation_table.Allocation(
        measured,
        [replace(each, kind=kind) for each, kind in zip(found, kinds, strict=True)],
        work,
        policy,
        by_node,
        choices,
        chosen,
    )
    if as_json:
        print(json.dumps(table.document(), indent=2))
    else:
        table.show(show_all)
    if not choices:
        raise DhhpcError(
            f"--available: no number of ranks fits; the batch_size {work.batch_size} of the experiment is "
            f"divided, and it has {work.samples} samples"
        )
    if chosen is None:
        quickest = min(choices, key=lambda choice: choice.seconds)
        thriftiest = min(choices, key=lambda choice: choice.core_hours)
        raise DhhpcError(
            f"no choice keeps to the limits: the fastest takes "
            f"{allocation_table.duration(quickest.seconds)}, and none less than "
            f"{thriftiest.core_hours:.3g} core-hours; raise --deadline or --core-hours, or offer more ranks "
            f"with --available"
        )


def policy_of(objective: str, deadline: str | None, core_hours: float | None) -> Policy:
    """The policy that the options tell.

    Raises:
        DhhpcError: a wrong value; names the option.
    """
    from dhhpc.batch.duration import parse_duration
    from dhhpc.scaling.resources.allocation import Objective, Policy

    if objective not in get_args(Objective):
        raise DhhpcError(f"--objective {objective}: choose {', '.join(get_args(Objective))}")
    try:
        seconds = math.inf if deadline is None else float(parse_duration(deadline))
    except ValueError as error:
        raise DhhpcError(f"--deadline {error}") from None
    if core_hours is not None and not core_hours > 0:
        raise DhhpcError(f"--core-hours {core_hours:g}: must be more than 0")
    return Policy(cast(Objective, objective), seconds, math.inf if core_hours is None else core_hours)


def named_run(text: str) -> tuple[str, Path]:
    """NAME=RUN, or a run with the name of its folder."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).exists():
        return Path(text).resolve().name, Path(text)
    if not name:
        raise DhhpcError(f"{text}: give NAME=RUN, for example cpu=runs/cpu")
    return name, Path(folder)


def with_available(found: Sequence[MeasuredKind], texts: Sequence[str]) -> list[Kind]:
    """The kinds with the numbers of --available.

    Raises:
        DhhpcError: a wrong name or number.
    """
    counts = of_kinds("--available", texts, found)
    for text in counts:
        if text is not None and not re.fullmatch(r"[1-9]\d*", text):
            raise DhhpcError(f"--available {text}: give a whole number above 0, or NAME=NUMBER")
    return [
        each.kind if text is None else replace(each.kind, available=int(text))
        for each, text in zip(found, counts, strict=True)
    ]


def with_power(
    kinds: Sequence[Kind],
    found: Sequence[MeasuredKind],
    texts: Sequence[str],
    site: str | None,
    partition: str | None,
    by_node: bool,
) -> list[Kind]:
    """The kinds with the watts of a rank: of --watts, else its cores' part of those of the site's node.

    Raises:
        DhhpcError: a wrong name, number or site, or one whose node has no watts.
    """
    from dhhpc.batch import read_site
    from dhhpc.scaling.resources.calibration import with_watts

    powered = []
    for each, kind, text in zip(found, kinds, of_kinds("--watts", texts, found), strict=True):
        if text is not None:
            stated = watts_of(text)
            powered.append(with_watts(kind, stated.busy, stated.idle, 1 / kind.together))
            continue
        if site is None:
            powered.append(kind)
            continue
        where = read_site(site)
        node = where.node_of(where.partition(partition))
        if node is None or node.watts is None:
            raise DhhpcError(
                f"--site {site}: its node has no watts; add `watts: {{busy: ..., idle: ...}}` to it, or give "
                f"--watts BUSY:IDLE"
            )
        # A node that is asked for as a whole is paid for as a whole, whatever cores its ranks leave idle.
        beside = Counter((rank.run, rank.host) for rank in each.ranks).most_common(1)[0][0]
        cores = sum(rank.cores for other in found for rank in other.ranks if (rank.run, rank.host) == beside)
        part = kind.cores / (cores if by_node else node.cores)
        powered.append(with_watts(kind, node.watts.busy, node.watts.idle, part))
    return powered


def watts_of(text: str) -> Watts:
    """BUSY:IDLE.

    Raises:
        DhhpcError: it is not that.
    """
    import pydantic

    from dhhpc.batch.site import Watts

    busy, _, idle = text.partition(":")
    try:
        return Watts.model_validate({"busy": busy, "idle": idle})
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DhhpcError(f"--watts {text}: {problem}; give BUSY:IDLE, for example 350:120") from None


def of_kinds(option: str, texts: Sequence[str], found: Sequence[MeasuredKind]) -> list[str | None]:
    """What an option says of each kind: by its name, by that of its runs, or for all.

    Raises:
        DhhpcError: a name is none of these; names the nearest.
    """
    names = [*dict.fromkeys(name for each in found for name in (each.name, each.kind.name))]
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if equals and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            mend = f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"
            raise DhhpcError(f"{option} {text}: no ranks of that name; {mend}")
        values[name] = value
    return [values.get(each.kind.name, values.get(each.name, values.get(""))) for each in found]
