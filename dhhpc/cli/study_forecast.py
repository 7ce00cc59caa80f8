"""`dhhpc scale report --machine`: a forecast of the study's experiment, kept in its results."""

from __future__ import annotations

import shlex
from pathlib import Path


def add_forecast(
    folder: Path,
    machine: Path,
    ranks: str | None,
    samples: int | None,
    variants: list[str],
    cores: int | None,
) -> None:
    """Forecast a study's experiment on a machine, and leave it in `results.json`, in place of an earlier one.

    Raises:
        DhhpcError: the machine, the variants or the ranks are none, or the runs cannot calibrate it.
    """
    from dhhpc.cli.simulation import counts_of
    from dhhpc.scaling.forecasts.network import read_machine
    from dhhpc.scaling.forecasts.of_study import forecast_study
    from dhhpc.scaling.studies.results import read_results, write_results

    described = read_machine(machine)
    results = read_results(folder)
    command = ["dhhpc", "scale", "report", str(folder), "--machine", str(machine)]
    for name, value in (("--ranks", ranks), ("--samples", samples), ("--cores", cores)):
        command += [] if value is None else [name, str(value)]
    command += [word for variant in variants for word in ("--variant", variant)]
    results.forecast = forecast_study(
        results,
        folder,
        described,
        lambda forecaster: counts_of(ranks, forecaster),
        shlex.join(command),
        variants,
        samples,
        cores,
    )
    write_results(folder, results)
