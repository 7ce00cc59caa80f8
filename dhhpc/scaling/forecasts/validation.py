"""How far the simulation is off: measured epochs of runs against those that other runs make it forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.calibration import (
    Calibration,
    calibrate,
    check_same_work,
    history_of,
    threads_on_node,
)
from dhhpc.scaling.forecasts.forecast import Forecaster
from dhhpc.scaling.forecasts.network import Machine
from dhhpc.scaling.forecasts.simulation import Simulation
from dhhpc.scaling.resources.calibration import median, read_measured, whole_seconds
from dhhpc.training.experiment import Experiment

# Which rank is slow is drawn: the middle of so many draws counts.
SEEDS = 5


@dataclass(frozen=True)
class Comparison:
    """A run that had no part in the calibration.

    Attributes:
        measured, modelled: seconds of an epoch with validation and checkpoint, median over epochs without the
            first.
        shares_cores: its ranks have more threads than a node has cores, of which the model says the least.
    """

    run: str
    ranks: int
    method: str
    period: int
    measured: float
    modelled: float
    shares_cores: bool

    @property
    def error(self) -> float:
        """By which the modelled seconds are off, as a part of the measured."""
        return self.modelled / self.measured - 1


@dataclass(frozen=True)
class Validation:
    """Runs compared, and those that could not be, with the reason."""

    comparisons: list[Comparison]
    refused: list[str]
    measured: list[str]

    def median_error(self, own_cores: bool = False) -> float | None:
        """Of the errors without their signs; of runs alone whose ranks had their cores to themselves, if
        `own_cores`. None without any."""
        errors = [abs(each.error) for each in self.comparisons if not (own_cores and each.shares_cores)]
        return median(errors) if errors else None


def validate(
    fitted: Sequence[Path], against: Sequence[Path], machine: Machine, cores: int | None = None
) -> Validation:
    """Calibrate on some runs and forecast the epochs of others, each with as many threads a rank.

    Args:
        machine: the one that all of them ran on, as `dhhpc scale probe --machine` describes it; each run
            tells how many ranks it had on a node.
        cores: of a node, where records do not tell.

    Raises:
        DhhpcError: a run is in both, is of other work, or none can be compared.
    """
    both = {folder.resolve() for folder in fitted} & {folder.resolve() for folder in against}
    if both:
        raise DhhpcError(f"--against {sorted(both)[0]}: is calibrated on, too; leave it out of one of them")
    calibrations: dict[int, Calibration] = {}
    comparisons, refused = [], []
    first = read_measured(fitted[0], fitted[0].name)
    for folder in against:
        run = read_measured(folder, folder.name)
        check_same_work([first, run])
        threads = int(run.content["threads"])
        experiment = Experiment.model_validate(run.content["experiment"])
        try:
            if threads not in calibrations:
                calibrations[threads] = calibrate(fitted, cores, threads)
            placed = {
                "nodes": max(machine.nodes, len(run.content["hosts"])),
                "ranks_per_node": threads_on_node(run) // threads,
                "cores_per_rank": threads,
            }
            of_run = machine.model_copy(update=placed)
            forecaster = Forecaster(calibrations[threads], of_run, experiment)
            ranks, epochs = run.content["ranks"], len(run.content["history"])
            draws = [modelled_seconds(forecaster, ranks, epochs, seed) for seed in range(SEEDS)]
        except DhhpcError as error:
            refused.append(f"{folder}: {error}")
            continue
        comparisons.append(
            Comparison(
                run=str(folder),
                ranks=ranks,
                method=experiment.parallel.method,
                period=history_of(run)[-1]["period"],
                measured=median([whole_seconds(epoch) for epoch in history_of(run)]),
                modelled=median(draws),
                shares_cores=of_run.oversubscription(ranks) > 1,
            )
        )
    if not comparisons:
        raise DhhpcError(refused[0])
    measured = [line for each in calibrations.values() for line in (*each.measured, *each.left_out)]
    return Validation(comparisons, refused, list(dict.fromkeys(measured)))


def modelled_seconds(forecaster: Forecaster, ranks: int, epochs: int, seed: int) -> float:
    """Of an epoch, median over those of a run without the first."""
    calibration, machine = forecaster.calibration, forecaster.machine
    pace = calibration.pace_on(machine, ranks)
    simulation = Simulation(forecaster.plan(ranks), pace, calibration.jitter, machine.overlap, seed)
    times = [simulation.epoch(last=number == epochs - 1).seconds for number in range(epochs)]
    return median(times[1:] or times)
