"""A forecast of training on other numbers of ranks and another machine, from what a few ranks measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.calibration import Calibration
from dhhpc.scaling.forecasts.failures import (
    Failures,
    daly_interval,
    simulate_failures,
)
from dhhpc.scaling.forecasts.network import HOUR, Machine
from dhhpc.scaling.forecasts.plan import Plan, plan
from dhhpc.scaling.forecasts.simulation import EpochTimes, Simulation
from dhhpc.training.experiment import Experiment
from dhhpc.training.parallel import FixedPeriod, Periodic

# Of an epoch, so many batches are simulated, and at least two averagings; more go on like these.
MOST_BATCHES = 200
# Epochs that are simulated where all are alike, and where periods change.
ALIKE_EPOCHS, CHANGING_EPOCHS = 3, 40
# Among a few ranks it is luck how slow the slowest is: the mean of so many draws counts.
FEW_RANKS, FEW_DRAWS = 64, 4
LONGEST_PERIOD = 1024
GOOD_EFFICIENCY = 0.8
PARTS = ("compute", "communication", "wait", "data", "validation", "checkpoint", "other")
LIMITS = {
    "compute": "computing, more slowly than one rank alone where more of a node's cores are busy",
    "communication": "the network: ranks send each other what they have learned",
    "wait": "waiting: all ranks wait for the slowest at each meeting",
    "data": "loading data",
    "validation": "validation, of which a rank has at least an image",
    "checkpoint": "checkpoints",
    "other": "what a step takes beside its samples",
}


@dataclass(frozen=True)
class Row:
    """Training on so many ranks; all but the counts is modelled.

    Attributes:
        batches: of an epoch.
        epoch_seconds: with validation and checkpoint, mean over epochs.
        speed_up, efficiency: against one rank; of weak scaling, what they get done in the time of one.
        shares: of the time of an epoch, by PARTS; means over the ranks.
        losses: of the time of an epoch, what each part takes beyond its time on one rank; together what is
            missing of an efficiency of 1.
        limit: the part of the largest loss, in words.
        run_seconds: of the run with failures and starts, without the wait for the first start.
        failures: expected in a run.
        failure_seconds: of `run_seconds`, what failures cost.
        core_hours, price: of all cores that ranks hold, the starts after failures included.
        period: the shortest that reaches the wanted efficiency, and what it reaches; None if none does.
        daly_seconds: between checkpoints, by Daly's estimate; infinite without failures.
        daly_epochs, best_epochs: the same in whole epochs, and by simulation.
    """

    ranks: int
    nodes: int
    batches: int
    epoch_seconds: float
    speed_up: float
    efficiency: float
    shares: dict[str, float]
    losses: dict[str, float]
    limit: str
    run_seconds: float
    failures: float
    failure_seconds: float
    core_hours: float
    price: float | None
    period: tuple[int, float] | None
    daly_seconds: float
    daly_epochs: int
    best_epochs: int


@dataclass(frozen=True)
class Forecast:
    """Rows by ranks, and what they stand on.

    Attributes:
        target: the efficiency that a period is to reach.
        left_out: numbers of ranks that cannot be, with the reason.
        past: the number of ranks past which efficiency is below GOOD_EFFICIENCY; None if it is not.
    """

    rows: list[Row]
    target: float
    left_out: list[str]
    past: float | None
    assumptions: list[str]


class Forecaster:
    """Simulates an experiment on a machine, as a calibration has measured its ranks.

    Args:
        samples: of the training split, or of each rank's part of it with `weak`.
    """

    def __init__(
        self,
        calibration: Calibration,
        machine: Machine,
        experiment: Experiment,
        samples: int | None = None,
        weak: bool = False,
        seed: int = 1,
    ) -> None:
        self.calibration, self.machine, self.experiment = calibration, machine, experiment
        self.samples, self.weak, self.seed = samples or calibration.samples, weak, seed

    def plan(self, ranks: int, experiment: Experiment | None = None) -> Plan:
        """What the experiment, or another one, does on so many ranks."""
        samples = self.samples * (ranks if self.weak else 1)
        images = self.calibration.images * (ranks if self.weak else 1)
        network = self.calibration.network
        return plan(experiment or self.experiment, network, samples, images, ranks, self.machine)

    def epochs(self, plan: Plan) -> list[EpochTimes]:
        """Some epochs of a run, each in its middle."""
        planned = range(self.experiment.epochs)
        periods = {plan.meetings_of(epoch).period.batches(epoch, []) for epoch in planned}
        changing = len(periods) > 1 or plan.first is not None or needs_history(plan.meetings.period)
        count = min(self.experiment.epochs, CHANGING_EPOCHS if changing else ALIKE_EPOCHS)
        pace = self.calibration.pace_on(self.machine, plan.ranks)
        most_batches = max(MOST_BATCHES, 2 * max(periods))
        found = []
        for draw in range(FEW_DRAWS if 1 < plan.ranks <= FEW_RANKS and not changing else 1):
            jitter, overlap = self.calibration.jitter, self.machine.overlap
            simulation = Simulation(plan, pace, jitter, overlap, self.seed + draw, most_batches)
            found += [simulation.epoch() for _ in range(count)]
        return found

    def epoch_seconds(self, plan: Plan) -> float:
        return fmean(epoch.seconds for epoch in self.epochs(plan))

    def efficiency(self, alone: float, seconds: float, ranks: int) -> float:
        return alone / seconds if self.weak else alone / (ranks * seconds)

    def best_period(self, ranks: int, alone: float, target: float) -> tuple[int, float] | None:
        """The shortest fixed period, of powers of two, with which so many ranks are efficient enough."""
        if ranks == 1:
            return 1, 1.0
        period = 1
        while period <= LONGEST_PERIOD:
            fixed = with_period(self.experiment, period)
            planned = self.plan(ranks, fixed)
            reached = self.efficiency(alone, self.epoch_seconds(planned), ranks)
            if reached >= target:
                return period, reached
            if period >= planned.batches:
                break
            period *= 2
        return None

    def row(self, ranks: int, on_one: Sequence[EpochTimes], target: float) -> Row:
        """The forecast for a number of ranks; on_one: epochs on one rank."""
        planned = self.plan(ranks)
        epochs = self.epochs(planned)
        seconds = fmean(epoch.seconds for epoch in epochs)
        shares = shares_of(epochs)
        alone = fmean(epoch.seconds for epoch in on_one)
        efficiency = self.efficiency(alone, seconds, ranks)
        losses = {name: shares[name] - efficiency * share for name, share in shares_of(on_one).items()}
        failures = self.failures(ranks)
        work = self.experiment.epochs * fmean(epoch.seconds - epoch.checkpoint for epoch in epochs)
        pause, write = self.pause(planned)
        chosen = planned.saving.every_epochs
        outcome = self.run(work, chosen, pause, write, failures)
        without = self.run(work, chosen, pause, write, replace(failures, mtbf=math.inf))
        start = self.machine.startup_seconds + self.calibration.once
        held = start + outcome[1] + write
        core_hours = held * ranks * self.machine.cores_per_rank / HOUR
        price = self.machine.price_per_core_hour
        daly = daly_interval(pause, failures.mtbf)
        daly_epochs = self.experiment.epochs
        if math.isfinite(daly):
            daly_epochs = min(daly_epochs, max(1, round(daly * self.experiment.epochs / work)))
        return Row(
            ranks=ranks,
            nodes=self.machine.nodes_of(ranks),
            batches=planned.batches,
            epoch_seconds=seconds,
            speed_up=efficiency * ranks,
            efficiency=efficiency,
            shares=shares,
            losses=losses,
            limit=limit_of(losses),
            run_seconds=start + outcome[0] + write,
            failures=outcome[2],
            failure_seconds=outcome[0] - without[0],
            core_hours=core_hours,
            price=None if price is None else price * core_hours,
            period=self.best_period(ranks, alone, target),
            daly_seconds=daly,
            daly_epochs=daly_epochs,
            best_epochs=self.best_checkpoints(work, pause, write, failures),
        )

    def failures(self, ranks: int) -> Failures:
        restart = self.machine.startup_seconds + self.calibration.once
        return Failures(self.machine.mtbf(ranks), restart, self.machine.requeue_seconds)

    def pause(self, plan: Plan) -> tuple[float, float]:
        """Seconds for which a checkpoint stops training, and in which it is then written behind it."""
        pause = plan.saving.pause + self.calibration.pace.checkpoint
        if plan.saving.asynchronous:
            return pause, plan.saving.write
        return pause + plan.saving.write, 0.0

    def run(
        self, work: float, every_epochs: int, pause: float, write: float, failures: Failures
    ) -> tuple[float, float, float]:
        """Means of seconds, seconds with nodes, and failures, with a checkpoint after so many epochs."""
        segments = -(-self.experiment.epochs // every_epochs)
        interval = work / segments
        # The next checkpoint waits for this one.
        pause += max(0.0, write - interval)
        outcome = simulate_failures(segments, interval, pause, write, failures, self.seed)
        return outcome.seconds, outcome.held, outcome.failures

    def best_checkpoints(self, work: float, pause: float, write: float, failures: Failures) -> int:
        """Epochs between checkpoints with which drawn runs take the least time."""
        epochs = self.experiment.epochs
        # Each number of stretches that can be, with the fewest epochs for it.
        choices = sorted({-(-epochs // -(-epochs // every)) for every in range(1, epochs + 1)})
        if math.isinf(failures.mtbf):
            return epochs
        times = {every: self.run(work, every, pause, write, failures)[0] for every in choices}
        return min(times, key=lambda every: times[every])


def forecast(forecaster: Forecaster, ranks: Sequence[int], target: float) -> Forecast:
    """Rows for all numbers of ranks that can be.

    Raises:
        DhhpcError: none can.
    """
    on_one = forecaster.epochs(forecaster.plan(1))
    rows, left_out = [], []
    for count in sorted(set(ranks)):
        try:
            rows.append(forecaster.row(count, on_one, target))
        except DhhpcError as error:
            left_out.append(str(error))
    if not rows:
        raise DhhpcError(left_out[0])
    return Forecast(rows, target, left_out, past(rows), assumptions(forecaster))


def needs_history(chosen: object) -> bool:
    """Whether a period is chosen by the times of epochs."""
    return type(chosen).__name__ in ("AutoTime", "LimitOverhead")


def with_period(experiment: Experiment, period: int) -> Experiment:
    """The experiment with parameters averaged every `period` batches, and else as it is."""
    method = experiment.parallel
    kept = {name: getattr(method, name) for name in ("batch", "scale_learning_rate", "split", "compression")}
    kept |= {"hierarchy": method.hierarchy, "ranks_per_node": method.ranks_per_node}
    if isinstance(method, Periodic):
        kept["optimizer_state"] = method.optimizer_state
    # Not through `model_copy`, which checks nothing.
    fixed = FixedPeriod.model_validate({"method": "fixed", "period": period} | kept)
    return experiment.model_copy(update={"parallel": fixed})


def shares_of(epochs: Sequence[EpochTimes]) -> dict[str, float]:
    """Of the time of epochs, by PARTS."""
    total = sum(epoch.seconds for epoch in epochs)
    found = {
        name: sum(float(getattr(epoch, name).mean()) for epoch in epochs) / total
        for name in ("compute", "communication", "wait", "data")
    }
    for name in ("validation", "checkpoint", "other"):
        found[name] = sum(getattr(epoch, name) for epoch in epochs) / total
    return {name: found[name] for name in PARTS}


def limiting_part(losses: dict[str, float]) -> str:
    """The part of the largest loss."""
    return max(PARTS, key=lambda name: losses[name])


def limit_of(losses: dict[str, float]) -> str:
    """The limiting part in words, with what is lost by it."""
    name = limiting_part(losses)
    return f"{LIMITS[name]} ({losses[name]:.0%})"


def past(rows: Sequence[Row]) -> float | None:
    """The number of ranks at which efficiency falls below GOOD_EFFICIENCY, between rows along the
    logarithm of the ranks."""
    for number, row in enumerate(rows):
        if row.efficiency >= GOOD_EFFICIENCY:
            continue
        if number == 0:
            return float(row.ranks)
        before = rows[number - 1]
        part = (before.efficiency - GOOD_EFFICIENCY) / (before.efficiency - row.efficiency)
        return float(before.ranks * (row.ranks / before.ranks) ** part)
    return None


def assumptions(forecaster: Forecaster) -> list[str]:
    """What the forecast takes for granted, each in a line."""
    machine, calibration = forecaster.machine, forecaster.calibration
    found = [
        f"a core of {machine.name} is {machine.relative_speed:g} times as fast as a measured one",
        "a node's busy cores slow each other down as the measured ones did, and no more",
        "ranks, and nodes, differ in speed as the measured ranks did; steps by chance, each for itself",
        f"a sum takes what the alpha-beta model says: {machine.within.latency:.3g} s and "
        f"{machine.within.bandwidth:.3g} B/s between ranks of a node, {machine.across.latency:.3g} s and "
        f"{machine.across.bandwidth:.3g} B/s between nodes; nobody else is on the network",
        f"{machine.overlap:.0%} of a sum goes on while ranks compute; a backward pass is two thirds of a "
        f"step, and its gradients come evenly",
        "shards are read as fast as measured, by however many ranks",
        f"checkpoints share {machine.storage.bandwidth:.3g} B/s, of which a node gets at most "
        f"{machine.storage.node_bandwidth:.3g} B/s",
    ]
    if machine.cores_per_rank != calibration.threads:
        found.append(
            f"a rank of {machine.cores_per_rank} cores computes as fast as the measured ones of "
            f"{calibration.threads}; measure runs with --threads {machine.cores_per_rank} for better"
        )
    if machine.ranks_per_node * machine.cores_per_rank > machine.cores_per_node:
        found.append("threads that are more than a node's cores share them evenly")
    if calibration.pace.step == 0:
        found.append("a step takes in proportion to its samples; runs with other batches would tell more")
    if forecaster.samples != calibration.samples:
        found.append(
            f"there are {forecaster.samples} training samples, not the {calibration.samples} measured"
        )
    if forecaster.weak:
        found.append("training and validation samples grow with the ranks")
    if machine.node_mtbf_hours is None:
        found.append("no node fails")
    else:
        found.append(
            f"a node fails once in {machine.node_mtbf_hours:g} hours, by chance; the job then waits "
            f"{machine.requeue_seconds:g} s for others"
        )
    if forecaster.experiment.parallel.batch == "multiply":
        found.append("the global batch grows with the ranks: what an epoch teaches changes, and this is time")
    return found
