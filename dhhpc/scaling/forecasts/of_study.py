"""The forecast of a study: its own finished runs calibrate the simulation of its experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.calibration import calibrate, other_work
from dhhpc.scaling.forecasts.forecast import (
    GOOD_EFFICIENCY,
    LIMITS,
    Forecaster,
    Row,
    forecast,
    limiting_part,
)
from dhhpc.scaling.forecasts.network import Machine
from dhhpc.scaling.studies.forecast_document import ForecastRow, StudyForecast, VariantForecast
from dhhpc.scaling.studies.results import Results
from dhhpc.training.experiment import Experiment
from dhhpc.training.run_record import read_run

# A rounding error is no limit.
NOTHING_LOST = 0.005
Counts = Callable[[Forecaster], Sequence[int]]


def forecast_study(
    results: Results,
    folder: Path,
    machine: Machine,
    counts: Counts,
    repeat: str,
    variants: Sequence[str] = (),
    samples: int | None = None,
    cores: int | None = None,
) -> StudyForecast:
    """Forecast each variant of a study on a machine.

    Args:
        folder: of the study, which holds its runs.
        counts: the numbers of ranks to forecast with a forecaster.
        repeat: the command that does so again.
        variants: these alone; by default all, and the experiment as it is where there are none.
        samples: of an epoch (of each rank's part of it in a weak study) instead of those measured.
        cores: of a node of the runs, where their records do not tell.

    Raises:
        DhhpcError: there is no such variant, none of its runs has finished, or they lack what calibration
            needs; or no number of ranks can be.
    """
    known = list(results.study.variants) or [""]
    for name in variants:
        if name not in known:
            there = ", ".join(known) if results.study.variants else "none"
            raise DhhpcError(f"--variant {name}: no variant of study {results.study.name}; there is {there}")
    found, forecasters = [], []
    for variant in variants or known:
        runs = runs_of(variant, results, folder)
        # Ranks as wide as the machine's need no guess of what threads gain.
        measured = {point.threads for point in results.points if point.variant == variant}
        threads = machine.cores_per_rank if machine.cores_per_rank in measured else None
        experiment = experiment_of(runs[0], results)
        try:
            calibration = calibrate(runs, cores, threads)
            forecaster = Forecaster(calibration, machine, experiment, samples, results.study.mode == "weak")
            found.append(forecast_variant(variant, forecaster, folder, counts(forecaster)))
        except DhhpcError as error:
            if not variant:
                raise
            raise DhhpcError(f"--variant {variant}: {error}") from None
        forecasters.append(forecaster)
    return StudyForecast(
        repeat=repeat,
        machine=machine.model_dump(mode="json"),
        samples=forecasters[0].samples,
        samples_measured=forecasters[0].calibration.samples,
        efficiency_limit=GOOD_EFFICIENCY,
        target=GOOD_EFFICIENCY,
        variants=found,
    )


def runs_of(variant: str, results: Results, folder: Path) -> list[Path]:
    """The finished runs of a variant, and of the experiment as it is where its ranks did the same work.

    Raises:
        DhhpcError: none of the variant has finished, or a run folder is gone.
    """
    finished = [point for point in results.points if point.status == "finished"]
    own = [folder / point.run for point in finished if point.variant == variant]
    if not own:
        named = f"variant {variant}" if variant else f"study {results.study.name}"
        raise DhhpcError(f"{folder}: no run of {named} has finished; measure with `dhhpc scale run`")
    first = read_run(own[0]).content
    others = [point for point in finished if point.variant == "" != variant]
    shared = [folder / point.run for point in others]
    return own + [run for run in shared if other_work(first, read_run(run).content) is None]


def experiment_of(run: Path, results: Results) -> Experiment:
    """The experiment of a run, as long as the study's: points of a weak study train more epochs."""
    recorded = read_run(run).content["experiment"]
    return Experiment.model_validate(recorded | {"epochs": results.experiment["epochs"]})


def forecast_variant(
    variant: str, forecaster: Forecaster, folder: Path, counts: Sequence[int]
) -> VariantForecast:
    """The forecast of one variant.

    Raises:
        DhhpcError: no number of ranks can be.
    """
    calibration = forecaster.calibration
    ranks = sorted({int(read_run(run).content["ranks"]) for run in calibration.runs})
    modelled = forecast(forecaster, counts, GOOD_EFFICIENCY)
    busy = [forecaster.machine.busy(row.ranks) for row in modelled.rows]
    return VariantForecast(
        variant=variant,
        runs=[str(run.relative_to(folder)) for run in calibration.runs],
        left_out_runs=inside(calibration.left_out, folder),
        threads=calibration.threads,
        measured_ranks=ranks,
        most_busy=max(calibration.samples_seconds),
        wanted_busy=max(busy),
        measured=inside(calibration.measured, folder),
        rows=[row_of(row, ranks[-1]) for row in modelled.rows],
        left_out=modelled.left_out,
        past=modelled.past,
        every_epochs=forecaster.experiment.checkpoint.every_epochs,
        assumptions=modelled.assumptions,
    )


def inside(lines: Sequence[str], folder: Path) -> list[str]:
    """Lines that begin with a run folder, with its path from the study's folder on."""
    return [line.removeprefix(f"{folder}/") for line in lines]


def row_of(row: Row, most_measured: int) -> ForecastRow:
    """A modelled row as results.json holds it."""
    part = limiting_part(row.losses)
    fails = math.isfinite(row.daly_seconds)
    values = asdict(row) | {
        "times_measured": row.ranks / most_measured,
        "limit_loss": row.losses[part],
        "limit": LIMITS[part] if row.losses[part] >= NOTHING_LOST else "nothing",
        "period": None if row.period is None else row.period[0],
        "period_efficiency": None if row.period is None else row.period[1],
        "daly_seconds": row.daly_seconds if fails else None,
        "daly_epochs": row.daly_epochs if fails else None,
    }
    return ForecastRow.model_validate(values)
