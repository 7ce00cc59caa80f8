"""`dhhpc kpi`: what models cost in time, core-hours, energy and money, and the time a person put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from dhhpc.scaling.design_time import DesignTime
    from dhhpc.scaling.studies.models_tried import ModelKpis

Shards = Annotated[
    Path, typer.Argument(metavar="SHARDS", help="The folder that the pipeline writes, or will write.")
]


class ShowsFolders(TyperGroup):
    """Takes what is no command for folders to show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    kpi = typer.Typer(
        cls=ShowsFolders,
        no_args_is_help=True,
        help="KPIs of runs, series and studies (dhhpc kpi FOLDER...): totm, toppi, ttmip, energy, cost.",
    )
    kpi.command("show")(show)
    design_time = typer.Typer(no_args_is_help=True, help="Keep the hours spent on a pipeline: T1 of toppi.")
    design_time.command("start")(start)
    design_time.command("stop")(stop)
    design_time.command("add", context_settings={"ignore_unknown_options": True})(add)
    kpi.add_typer(design_time, name="design-time")
    app.add_typer(kpi, name="kpi")


def show(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of runs, series or studies.")
    ],
    price: Annotated[
        float | None, typer.Option("--price-per-core-hour", help="For the cost, in a currency of yours.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; times in seconds.")] = False,
) -> None:
    """Show what models took and cost; `show` may be left out.

    Each folder is a model that was tried. ttmip sums the totm of all of them, and toppi once a pipeline.

    Example: dhhpc kpi runs/small runs/large --price-per-core-hour 0.02
    """
    import json
    import math
    from dataclasses import asdict

    from dhhpc.errors import DhhpcError
    from dhhpc.scaling.studies.models_tried import kpis_of

    if price is not None and not (math.isfinite(price) and price >= 0):
        raise DhhpcError(f"--price-per-core-hour {price:g}: give a number of at least 0")
    found = kpis_of(folders, price)
    print(json.dumps(asdict(found), indent=2) if as_json else as_text(found))


def start(shards: Shards) -> None:
    """Start the clock of the time spent on a preprocessing pipeline.

    Example: dhhpc kpi design-time start shards
    """
    from dhhpc.scaling import design_time

    print(told(shards, design_time.start(shards)))


def stop(shards: Shards) -> None:
    """Stop the clock and add its time.

    Example: dhhpc kpi design-time stop shards
    """
    from dhhpc.scaling import design_time

    print(told(shards, design_time.stop(shards)))


def add(
    shards: Shards,
    hours: Annotated[float, typer.Argument(help="Hours to add; a negative number takes back.")],
) -> None:
    """Add hours that no clock measured.

    Example: dhhpc kpi design-time add shards 1.5
    """
    from dhhpc.scaling import design_time

    print(told(shards, design_time.add(shards, hours)))


def told(shards: Path, time: DesignTime) -> str:
    clock = "" if time.since is None else f"; the clock runs since {time.since:%Y-%m-%d %H:%M} UTC"
    return f"{shards}: {time.hours:.2f} hours of design (T1){clock}"


def as_text(found: ModelKpis) -> str:
    """Tables of runs and pipelines, and ttmip with what it is made of."""
    with_cost = any(run.cost is not None for run in found.runs)
    width = max([len("run"), *(len(run.run) for run in found.runs)])
    heads = ["ranks", "totm (s)", "samples/s", "core-hours", "energy (J)", *(["cost"] if with_cost else [])]
    lines = [f"{'run':{width}}" + "".join(f"{head:>12}" for head in heads)]
    for run in found.runs:
        cells = [
            str(run.ranks),
            number(run.totm, 1),
            number(run.samples_per_second, 1),
            number(run.core_hours, 4),
            number(run.joules, 0),
            *([number(run.cost, 4)] if with_cost else []),
        ]
        unfinished = "" if run.status == "finished" else f"  ({run.status})"
        lines.append(f"{run.run:{width}}" + "".join(f"{cell:>12}" for cell in cells) + unfinished)
    for reason in dict.fromkeys(run.energy for run in found.runs if run.joules is None):
        lines.append(f"energy unknown: {reason}")
    for pipeline in found.pipelines:
        lines.append(
            f"toppi of {pipeline.shards}: T1 {seconds(pipeline.design_seconds, 'not entered')}, "
            f"T2 {seconds(pipeline.run_seconds, 'unknown, no index there')}, "
            f"T1 + T2 {seconds(pipeline.toppi, 'unknown')}"
        )
    for model in found.models:
        lines.append(f"totm of {model.folder}: {model.totm:.1f} s, {model.counted}")
    lines.append(f"ttmip: {time_to_model(found)}")
    return "\n".join(lines)


def time_to_model(found: ModelKpis) -> str:
    models, pipelines = plural(found.models, "model"), plural(found.pipelines, "pipeline")
    if found.ttmip is not None:
        return f"{found.ttmip:.1f} s, of {models} and {pipelines}"
    lacking = next(each for each in found.pipelines if each.toppi is None)
    mend = (
        f"enter T1 with `dhhpc kpi design-time add {lacking.shards} HOURS`"
        if lacking.design_seconds is None
        else f"T2 is in the index of {lacking.shards}, which is not there"
    )
    return f"unknown, at least {found.at_least:.1f} s, of {models} and {pipelines}; {mend}"


def plural(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"


def number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def seconds(value: float | None, unknown: str) -> str:
    return unknown if value is None else f"{value:.1f} s"
