"""`dhhpc runs compare`: in what runs differ, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dhhpc.training import RunRecord

# Of the record, beside the experiment: what a result may depend on.
CIRCUMSTANCES = ("ranks", "threads", "hosts", "processor", "commit", "samples", "resumed")
# In these keys runs differ anyway.
NAMES = ("name", "output")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.", metavar="RUN...")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare runs: in what they differ, and what came of it.

    Names the keys of the experiment that differ, the ranks, machines and versions, and beside them losses,
    metrics, seconds and bytes. One run of each is no proof: train a series (`--seeds`) to tell a difference
    from chance.

    Example: dhhpc runs compare runs/one-rank runs/four-ranks
    """
    import json

    from dhhpc.errors import DhhpcError
    from dhhpc.training import holds_series, read_run

    if len(runs) < 2:
        raise DhhpcError(f"{runs[0]}: is one run; name two or more to compare")
    for run in runs:
        if holds_series(run):
            raise DhhpcError(f"{run}: is a series; compare its members, or see `dhhpc runs show {run}`")
    records = [read_run(run) for run in runs]
    differing, results = different(records), outcomes(records)
    if as_json:
        print(json.dumps({"runs": list(map(str, runs)), "differs": differing, "results": results}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    for title, rows in (("differs", differing), ("result", results)):
        table = Table(title, *(str(run) for run in runs))
        for name, values in rows.items():
            table.add_row(name, *map(shown, values))
        if rows:
            console.print(table)
        else:
            console.print("The runs differ in nothing that their records tell.")


def different(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Of each key in which the runs differ, the value of each."""
    from dhhpc.training.experiment import differences

    first = records[0].content
    keys = {
        key: None
        for record in records[1:]
        for key in differences(first["experiment"], record.content["experiment"])
        if key not in NAMES
    }
    found = {key: [value_of(record.content["experiment"], key) for record in records] for key in keys}
    for name in CIRCUMSTANCES:
        values = [record.content.get(name) for record in records]
        if any(value != values[0] for value in values):
            found[name] = values
    versions = [record.content.get("versions", {}) for record in records]
    for package in sorted({package for each in versions for package in each}):
        values = [each.get(package) for each in versions]
        if any(value != values[0] for value in values):
            found[f"version of {package}"] = values
    return found


def value_of(document: dict[str, Any], key: str) -> Any:
    """Of a dotted key; None where there is none."""
    value: Any = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def outcomes(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """How each run went: a row a figure, None where a run has none."""
    columns = [outcome(record) for record in records]
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def outcome(record: RunRecord) -> dict[str, Any]:
    content = record.content
    history, kpis = content.get("history", []), content.get("kpis", {})
    found: dict[str, Any] = {"status": content["status"], "epochs": len(history)}
    if history:
        found["last loss"] = history[-1]["loss"]
    for split, metrics in record.metrics().items():
        found |= {
            f"{split} {name}": value
            for name, value in metrics.items()
            if isinstance(value, float) and not isinstance(value, bool)
        }
    if kpis:
        found["totm (s)"] = kpis["totm"]
        found["core-hours"] = kpis["totm"] * sum(content["threads_of_ranks"]) / 3600
        found["samples/s"] = kpis["samples_per_second"]
        found["MB sent by a rank"] = kpis["bytes_sent"] / 1e6
    return found


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    return str(value)
