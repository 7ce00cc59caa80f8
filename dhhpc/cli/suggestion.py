"""`dhhpc submit suggest`: how many nodes, how much memory and what time limit to ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.scaling.resources.traffic import Network

UNITS = {"m": 60, "h": 3600, "d": 86400}


def suggest(
    experiment: Annotated[Path, typer.Argument(help="The experiment file.")],
    site: Annotated[str, typer.Option(help="A site's name (`dhhpc site list`) or a path of a .yml file.")],
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Cores of each rank; a node's cores shared by its ranks by default.")
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(metavar="1,2,4", help="Numbers of nodes; 1, 2, 4, 8, 16 by default, as allowed."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="The training takes at most this: 90m, 8h, 2d, or as SLURM writes it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="About how long to rehearse.")] = 20.0,
    rehearsal: Annotated[
        Path | None,
        typer.Option(help="What `dhhpc scale rehearse --output` wrote, in place of a rehearsal here."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="MICROSECONDS,GBYTES",
            help="Latency and bandwidth (GB/s) between nodes; 20,1.25 by default: 10 Gbit Ethernet.",
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="The partition; the site's first by default.")] = None,
    account: Annotated[str | None, typer.Option(help="The account to charge; the site's by default.")] = None,
    qos: Annotated[str | None, typer.Option(help="The quality of service; the site's by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value of the site config, see `dhhpc site show`."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Suggest nodes, memory and time limit for an experiment; submits nothing.

    The experiment is trained for some seconds on one rank of this machine (or was elsewhere, --rehearsal).
    From its pace and memory follows a row for each number of nodes, with margins: 1.5 times the time,
    1.15 times the memory. Averaging between ranks is modelled by latency and bandwidth, not measured.

    Suggested is the row of fewest core-hours among those that the site can hold and that, with the margin,
    meet the --deadline. Without a deadline: among those that one job can hold; if there are none, among those
    whose job is queued again (--requeue) when its time is up. Waiting in the queue is not counted.

    Example: dhhpc submit suggest experiment.yml --site virtual-cluster --nodes 1,2,4 --deadline 8h
    """
    import json
    import os

    from dhhpc import zoo
    from dhhpc.batch import JobRequest, read_site
    from dhhpc.cli.rehearsal import rehearsed, with_threads
    from dhhpc.cli.suggestion_table import Suggestion
    from dhhpc.scaling.resources.rehearsal import read_rehearsal, refuse_spatial
    from dhhpc.scaling.resources.suggestion import check_ranks, nodes_to_try, place_of, recommended, suggest
    from dhhpc.training.footprint import Counting

    limit = None if deadline is None else seconds_of(deadline)
    link = network_of(network)
    asked = JobRequest(
        arguments=("train", str(experiment.absolute())),
        name=experiment.stem or "suggestion",
        folder=str(Path.cwd()),
        ranks_per_node=ranks_per_node,
        threads=threads,
        partition=partition,
        account=account,
        qos=qos,
    )
    document = with_threads(experiment, None)
    refuse_spatial(document)
    place = place_of(asked, read_site(site, settings or []))
    counts = nodes_to_try(place) if nodes is None else numbers_of(nodes)
    wanted = document.threads or place.threads
    counting = Counting(document, document.data.open(), zoo.create)
    problems = {count: check_ranks(counting, count * ranks_per_node, zoo.create) for count in counts}
    trained = [count for count, problem in problems.items() if problem is None]
    if not trained:
        raise DhhpcError(problems[counts[0]] or "")
    if rehearsal is not None:
        measured = read_rehearsal(rehearsal, document)
    else:
        batch = max(counting.batch(count * ranks_per_node) for count in trained)
        measured = rehearsed(experiment, min(wanted, len(os.sched_getaffinity(0))), batch, seconds)
    rows = suggest(counting, measured, place, counts, zoo.create, link)
    best = recommended(rows, limit)
    found = Suggestion(experiment, site, settings or [], place, measured, link, limit, rows, best, wanted)
    if as_json:
        print(json.dumps(found.document(), indent=2))
    else:
        found.show()
    if best is None:
        raise DhhpcError(found.refusal())


def seconds_of(text: str) -> int:
    """The seconds of a deadline.

    Raises:
        DhhpcError: it is none.
    """
    from dhhpc.batch.duration import parse_duration

    match = re.fullmatch(r"([1-9]\d*)([mhd])", text)
    if match is not None:
        return int(match[1]) * UNITS[match[2]]
    try:
        return parse_duration(text)
    except ValueError as error:
        raise DhhpcError(f"--deadline {error}; or 90m, 8h, 2d") from None


def numbers_of(text: str) -> list[int]:
    """The numbers of --nodes, in order, each once.

    Raises:
        DhhpcError: they are none.
    """
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise DhhpcError(f"--nodes {text}: give whole numbers above 0 with commas between them: 1,2,4")
    return sorted({int(number) for number in text.split(",")})


def network_of(text: str | None) -> Network:
    """The network of --network, or the one that is assumed.

    Raises:
        DhhpcError: no two numbers above 0.
    """
    from dataclasses import replace

    from dhhpc.scaling.collectives import Link
    from dhhpc.scaling.resources.traffic import ASSUMED

    if text is None:
        return ASSUMED
    try:
        latency, bandwidth = (float(part) for part in text.split(","))
        if not (0 < latency < float("inf") and 0 < bandwidth < float("inf")):
            raise ValueError
    except ValueError:
        raise DhhpcError(
            f"--network {text}: give the microseconds of a message and the GB/s of a node, such as 2,12.5"
        ) from None
    return replace(ASSUMED, across=Link(latency * 1e-6, bandwidth * 1e9))
