"""What a series has shown so far: every member's metrics and times, their mean and deviation."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.training.ensemble import ensemble_metrics
from dhhpc.training.metrics import without_details
from dhhpc.training.run_record import SERIES, read_run
from dhhpc.training.series import Series, read_series
from dhhpc.training.statistics import spread

# Of a split, not of a network.
NOT_MEASURED = ("samples",)


def summarize(folder: Path | str) -> dict[str, Any]:
    """What series.json holds, from the members' records as they are now.

    Only finished members of this very experiment count. Beside `Series.document`:

    - members: name, seed, fold, status, ranks and totm of each; missing: the names of those that do not
      count;
    - totm: the seconds of each member that counts, and their sum, which is the series' part of ttmip, the
      time of all models tried;
    - metrics: by split and metric the members' values, mean, deviation and interval (`Spread`), and what
      all members together reach if they were evaluated as an ensemble. A member
      that was not evaluated on the split, or for which the metric is undefined, is not among the values.
      There is no interval for folds with several seeds each, which are not independent.

    Raises:
        DhhpcError: the folder holds no series.
    """
    series = read_series(folder)
    independent = series.folds is None or len(series.seeds) == 1
    members: list[dict[str, Any]] = []
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for member in series.members:
        status = series.status(member)
        fold = member.experiment.data.fold
        row = {
            "name": member.name,
            "seed": member.experiment.seed,
            "fold": None if fold is None else fold.part,
            "status": status,
            "ranks": None,
            "totm": None,
        }
        members.append(row)
        if status != "finished":
            continue
        record = read_run(member.folder)
        row["ranks"], row["totm"] = record.content["ranks"], record.content["kpis"]["totm"]
        for split, values in record.metrics().items():
            for metric, value in without_details(values).items():
                if value is not None and metric not in NOT_MEASURED:
                    of_metric = metrics.setdefault(split, {}).setdefault(metric, {"values": {}})
                    of_metric["values"][member.name] = value
    for split_metrics in metrics.values():
        for of_metric in split_metrics.values():
            found = spread(list(of_metric["values"].values()))
            of_metric["mean"], of_metric["deviation"] = found.mean, found.deviation
            of_metric["interval"] = list(found.interval) if found.interval and independent else None
    times = {row["name"]: row["totm"] for row in members if row["totm"] is not None}
    together = ensemble_metrics(series)
    for split, of_split in metrics.items():
        for metric, of_metric in of_split.items():
            of_metric["ensemble"] = together.get(split, {}).get(metric)
    return series.document() | {
        "members": members,
        "missing": [row["name"] for row in members if row["status"] != "finished"],
        "totm": {"values": times, "sum": round(sum(times.values()), 4)},
        "metrics": metrics,
    }


def write_summary(folder: Path | str) -> dict[str, Any]:
    """Bring series.json up to date; returns what it holds.

    Members may finish at the same time, each with its own process writing the summary. Each looks again after
    it has written, so the last look of the last of them sees all.

    Raises:
        DhhpcError: as `summarize`, or it cannot be written.
    """
    path = Path(folder) / SERIES
    summary = summarize(folder)
    while read_json(path) != summary:
        write_json(path, summary)
        summary = summarize(folder)
    return summary


def shown_summary(folder: Path | str) -> dict[str, Any]:
    """The summary for a reader, who may not be allowed to write it."""
    with contextlib.suppress(DhhpcError):
        return write_summary(folder)
    return summarize(folder)


def series_folders(folder: Path | str) -> dict[Path, Series]:
    """Every series below `folder`, itself included."""
    found = {}
    for path in sorted(Path(folder).rglob(SERIES)):
        with contextlib.suppress(DhhpcError):
            found[path.parent] = read_series(path.parent)
    return found
