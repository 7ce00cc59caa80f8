"""The tables of a study as CSV (RFC 4180), for spreadsheets and plots of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhhpc.files import write_text
from dhhpc.scaling.reports.plots import progress_of
from dhhpc.scaling.studies.results import Results

TABLES_FOLDER = "tables"


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write every table that the results allow, and remove those of earlier results that these do not.

    Returns:
        Their paths: `scaling.csv` (a line for each rank count), `runs.csv`, `loss.csv` (for each epoch of
        each run), `fits.csv` (for each parameter) and `forecast.csv` (modelled).

    Raises:
        DhhpcError: one cannot be written.
    """
    tables = {
        "scaling": [flat(row.model_dump()) for row in results.rows],
        "runs": runs(results),
        "loss": losses(results),
        "fits": fits(results),
        "forecast": forecasts(results),
    }
    written = []
    for name, lines in tables.items():
        path = folder / f"{name}.csv"
        if lines:
            write_text(path, as_csv(lines))
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def runs(results: Results) -> list[dict[str, Any]]:
    """Every run, finished or failed."""
    beside = {"curve", "versions", "machine"}
    return [flat(point.model_dump(exclude=beside)) for point in results.points]


def losses(results: Results) -> list[dict[str, Any]]:
    """Every epoch of every run."""
    found = []
    for point in results.points:
        for epoch, samples in zip(point.curve, progress_of(point)[1], strict=True):
            of_run = {"run": point.run, "variant": point.variant, "ranks": point.ranks}
            found.append(of_run | epoch.model_dump() | {"samples": round(samples)})
    return found


def fits(results: Results) -> list[dict[str, Any]]:
    """Every parameter of every fitted model."""
    quality = {"observations", "r_squared", "relative_rmse", "aicc"}
    return [
        {"model": fit.model} | parameter.model_dump() | fit.model_dump(include=quality)
        for fit in results.fits
        for parameter in fit.parameters
    ]


def forecasts(results: Results) -> list[dict[str, Any]]:
    """Every modelled row; `forecast` is the machine, so that no line looks like a measured one."""
    if results.forecast is None:
        return []
    machine = results.forecast.machine["name"]
    return [
        {"forecast": machine, "variant": variant.variant} | flat(row.model_dump())
        for variant in results.forecast.variants
        for row in variant.rows
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Columns `split_compute` from `split: {compute: ...}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}_")
        else:
            found[f"{prefix}{key}"] = value
    return found


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """A heading of all columns, and a line each; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(lines), extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def columns(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that some line has a value of, in the order of the line with the most."""
    found = dict.fromkeys(key for line in sorted(lines, key=len, reverse=True) for key in line)
    return [key for key in found if any(line.get(key) is not None for line in lines)]
