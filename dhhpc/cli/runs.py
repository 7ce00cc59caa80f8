"""`dhhpc runs`: look at run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dhhpc.training import RunRecord


def register(app: typer.Typer) -> None:
    runs = typer.Typer(no_args_is_help=True, help="List and show runs.")
    runs.command("list")(list_runs)
    runs.command("show")(show)
    app.add_typer(runs, name="runs")


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, also in folders below.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs below a folder, oldest first.

    Example: dhhpc runs list runs
    """
    import json

    from dhhpc.training import find_runs

    rows = [summary(record) for record in find_runs(folder)]
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
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print run.json with the metrics.")] = False,
) -> None:
    """Show one run: what was run, where, how long, and how good it got.

    Example: dhhpc runs show runs/lungs
    """
    import json

    from dhhpc.cli.evaluate import as_text
    from dhhpc.cli.training_progress import epoch_line
    from dhhpc.training import read_run

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
