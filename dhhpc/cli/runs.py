"""`dhhpc runs`: look at run folders, and report on them; to compare them see `comparison`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dhhpc.cli.comparison import compare

if TYPE_CHECKING:
    from dhhpc.training import RunRecord, Series


def register(app: typer.Typer) -> None:
    runs = typer.Typer(no_args_is_help=True, help="List, show, compare and report runs.")
    runs.command("list")(list_runs)
    runs.command("show")(show)
    runs.command("compare")(compare)
    runs.command("report")(write_report)
    app.add_typer(runs, name="runs")


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, also in folders below.")] = Path("."),
    members: Annotated[bool, typer.Option("--members", help="List the members of series, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs below a folder, oldest first; a series (train --seeds, --folds) in one row.

    The row of a series tells how many of its members are finished, the mean of their last losses and the sum
    of their totm.

    Example: dhhpc runs list runs
    """
    import json

    from dhhpc.training import find_runs, series_folders

    rows = listed(find_runs(folder), series_folders(folder), members)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"{folder}: no runs")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=None if Console().is_terminal else 160).print(table)


def show(
    run: Annotated[Path, typer.Argument(help="A run folder, or the folder of a series.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print run.json with the metrics, or series.json.")
    ] = False,
) -> None:
    """Show one run: what was run, where, how long, and how good it got.

    Of a series: the metrics of each member, with mean and deviation, as its records are now.

    Example: dhhpc runs show runs/lungs
    """
    import json

    from dhhpc.cli import series_table
    from dhhpc.cli.evaluate import as_text
    from dhhpc.cli.training_progress import epoch_line
    from dhhpc.training import holds_series, read_run, shown_summary

    if holds_series(run):
        of_series = shown_summary(run)
        print(json.dumps(of_series, indent=2) if as_json else series_table.as_text(of_series, run))
        return
    record = read_run(run)
    content = record.content
    metrics = record.metrics()
    if as_json:
        print(json.dumps(content | {"metrics": metrics}, indent=2))
        return
    for name, value in summary(record).items():
        print(f"{name:12}{'' if value is None else value}")
    if content["ranks"] > 1:
        print(f"{'averaging':12}{averaging(content)}")
    for name, value in circumstances(content).items():
        print(f"{name:12}{value}")
    for name in ("hosts", "versions", "commit", "processor", "slurm_job_id"):
        value = content.get(name)
        if value:
            pairs = value.items() if isinstance(value, dict) else ()
            text = ", ".join(f"{key} {part}" for key, part in pairs) or value
            print(f"{name:12}{', '.join(text) if isinstance(text, list) else text}")
    epochs = content["experiment"]["epochs"]
    for epoch in content.get("history", []):
        print(epoch_line(epoch | {"epochs": epochs}))
    for split, values in metrics.items():
        print(as_text(values, f"{split} split"))


def write_report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Write report.html into a run folder: what was trained, how it learned and how good it is.

    Evaluate the run on its test split before, so that the report tells of that.

    Example: dhhpc runs report runs/lungs
    """
    from dhhpc import zoo
    from dhhpc.errors import DhhpcError
    from dhhpc.scaling.reports.run_report import run_report
    from dhhpc.training import holds_series

    if holds_series(run):
        raise DhhpcError(f"{run}: is a series; report its members one by one (`dhhpc runs show {run}`)")
    print(run_report(run, zoo.create))


def circumstances(content: dict[str, Any]) -> dict[str, str]:
    """The load of each host before a run, the cores that each rank kept to, and the ranks on each of several
    nodes, as far as the record tells them."""
    from dhhpc.mpi import core_list

    found: dict[str, str] = {}
    held = Counter(content.get("nodes_of_ranks", []))
    if len(held) > 1:
        found["nodes"] = ", ".join(
            f"{count} rank{'s' if count > 1 else ''} on {node}" for node, count in held.items()
        )
    if content.get("load"):
        found["load before"] = ", ".join(f"{load[0]:.2f} on {host}" for host, load in content["load"].items())
    if content.get("binding"):
        found["cores"] = " | ".join(map(core_list, content["binding"]))
    return found


def averaging(content: dict[str, Any]) -> str:
    """How the ranks of a run learned together, how often they met and what that cost."""
    method = content["experiment"]["parallel"]["method"]
    history = content.get("history", [])
    ranks = [rank for epoch in history for rank in epoch["ranks"]]
    spent = sum(rank[name] for rank in ranks for name in ("data", "compute", "communication", "wait"))
    if not spent or "averagings" not in history[-1]:
        return str(method)
    count = sum(epoch["averagings"] for epoch in history)
    megabytes = sum(epoch["bytes_sent"] for epoch in history) / 1e6
    share = sum(rank["communication"] for rank in ranks) / spent
    cost = f"{megabytes:.1f} MB sent by a rank, communication {share:.1%} of the time"
    return f"{method}: {count} averagings, {cost}"


def listed(
    records: Sequence[RunRecord], series: Mapping[Path, Series], with_members: bool
) -> list[dict[str, Any]]:
    """The rows of a list: runs, and each series at the place of its first member."""
    of_series: dict[Path, list[dict[str, Any]]] = {folder: [] for folder in series}
    member_folders = {
        folder / member.name: folder for folder, found in series.items() for member in found.members
    }
    rows: list[dict[str, Any] | Path] = []
    for record in records:
        folder = member_folders.get(record.folder)
        if folder is None:
            rows.append(summary(record))
            continue
        if not of_series[folder]:
            rows.append(folder)
        of_series[folder].append(summary(record))
    rows += [folder for folder, found in of_series.items() if not found]
    result: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, Path):
            result.append(series_summary(row, series[row], of_series[row]))
            result += of_series[row] if with_members else []
        else:
            result.append(row)
    return result


def series_summary(folder: Path, series: Series, begun: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A series in one row, from the rows of those members that have begun."""
    from statistics import fmean  # takes a thirtieth of a second to load, which --help would feel

    members = series.members
    finished = [member.name for member in members if series.status(member) == "finished"]
    counted = [row for row in begun if Path(row["run"]).name in finished]
    return {
        "run": str(folder),
        "status": f"{len(finished)} of {len(members)} finished",
        "started": begun[0]["started"] if begun else None,
        "network": series.experiment.network.name,
        "ranks": begun[0]["ranks"] if begun else None,
        "threads": begun[0]["threads"] if begun else None,
        "epochs": series.experiment.epochs,
        "loss": round(fmean(row["loss"] for row in counted), 5) if counted else None,
        "totm": round(sum(row["totm"] for row in counted), 4) if counted else None,
    }


def summary(record: RunRecord) -> dict[str, Any]:
    """A run in one row."""
    content = record.content
    history = content.get("history", [])
    return {
        "run": str(record.folder),
        "status": content["status"],
        "started": content["started"],
        "network": content["experiment"]["network"]["name"],
        "ranks": content["ranks"],
        "threads": content["threads"],
        "epochs": len(history),
        "loss": round(history[-1]["loss"], 5) if history else None,
        "totm": content.get("kpis", {}).get("totm"),
    }
