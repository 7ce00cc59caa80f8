"""Time against core-hours and energy: how many ranks of which kind to ask for, and how they share a batch.

This is the multi-objective, heterogeneity-aware allocation that the DeepHealth toolkit asks for (DeepHealth
D1.4, section 6.3.5). In the forecast of an epoch every batch takes as long as the rank that is the last with
its samples, and then the ranks average; at the end each validates as many images. Plain arithmetic; where the
numbers come from is the subject of `dhhpc.scaling.resources.calibration`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import parts, share

Array = np.ndarray[Any, Any]
Objective = Literal["time", "core-hours", "energy"]

# The front of so many choices is found in seconds.
MOST_CHOICES = 5000
HOUR = 3600.0


@dataclass(frozen=True)
class Kind:
    """Ranks that are alike, on nodes that are alike.

    Attributes:
        pace: seconds that one takes for a training sample.
        validation_pace: seconds for an image of the validation split.
        cores: that one holds.
        together: of them are asked for at once: those of a node, or 1.
        available: how often that may be had.
        busy_watts, idle_watts: of one rank with its cores, computing and waiting; None where unknown.
    """

    name: str
    pace: float
    validation_pace: float
    cores: int
    together: int
    available: int
    busy_watts: float | None = None
    idle_watts: float | None = None

    @property
    def joules(self) -> float | None:
        """What a training sample costs beyond waiting; None where unknown."""
        if self.busy_watts is None or self.idle_watts is None:
            return None
        return (self.busy_watts - self.idle_watts) * self.pace


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        samples: of the training split, in an epoch.
        images: of the validation split.
        batch_size: of the experiment.
        divided: the ranks share `batch_size`, else each has as much.
        meeting: of a number of ranks, the seconds of their averaging for each batch.
        epoch_seconds: of an epoch beside batches and validation, on any ranks: checkpoints, bookkeeping.
        once_seconds: of the run beside its epochs.
    """

    samples: int
    images: int
    epochs: int
    batch_size: int
    divided: bool
    meeting: Callable[[int], float]
    epoch_seconds: float
    once_seconds: float

    def batch(self, ranks: int) -> int:
        """Samples of a whole batch on so many ranks; of the only one, if there are no more."""
        return min(self.samples, self.batch_size * (1 if self.divided else ranks))

    def fits(self, ranks: int) -> bool:
        """Whether so many ranks can train it: each has a sample, and a batch to be divided divides."""
        return 0 < ranks <= self.samples and not (self.divided and self.batch_size % ranks)


@dataclass(frozen=True)
class Choice:
    """Ranks, and their shares of the work.

    Attributes:
        ranks: of each kind.
        split: samples of a whole batch that each rank takes, the ranks of the first kind first; sums to the
            batch. As `parallel.split` it makes the ranks share batches so.
        fastest: no split of these ranks takes less time; else this one takes the least energy within the
            policy's limits.
        samples: of an epoch, by kind; they sum to the epoch.
        epoch_seconds: of an epoch with its validation.
        seconds: of the run (totm).
        joules: None where the watts of a kind are unknown.
        efficiency: the part of the core-hours in which the cores' ranks compute.
        on_front: no other choice is better in one respect and as good in all.
    """

    ranks: tuple[int, ...]
    split: tuple[int, ...]
    fastest: bool
    samples: tuple[int, ...]
    epoch_seconds: float
    seconds: float
    core_hours: float
    joules: float | None
    efficiency: float
    on_front: bool = False


@dataclass(frozen=True)
class Policy:
    """What shall be least, within limits in seconds and core-hours."""

    objective: Objective = "time"
    deadline: float = math.inf
    core_hours: float = math.inf

    def allows(self, choice: Choice) -> bool:
        return choice.seconds <= self.deadline and choice.core_hours <= self.core_hours

    def longest(self, choice: Choice) -> float:
        """The seconds that the ranks of a choice may take."""
        return min(self.deadline, self.core_hours / choice.core_hours * choice.seconds)

    def key(self, choice: Choice) -> tuple[float, float, float]:
        """Less is better: by the objective, else by time, else by core-hours."""
        joules = math.inf if choice.joules is None else choice.joules
        first = {"time": choice.seconds, "core-hours": choice.core_hours, "energy": joules}
        return first[self.objective], choice.seconds, choice.core_hours


def allocate(kinds: Sequence[Kind], work: Work, policy: Policy) -> tuple[list[Choice], int | None]:
    """Every choice of ranks with its fastest split and, where watts are known, the split that takes the least
    energy within the policy's limits; and the number of the choice that the policy takes, None if it allows
    none.

    Raises:
        DhhpcError: there are too many choices, or the objective is energy and no kind's watts are known.
    """
    count = math.prod(kind.available + 1 for kind in kinds) - 1
    if count > MOST_CHOICES:
        raise DhhpcError(
            f"--available: {count} choices are too many to compare; allow at most {MOST_CHOICES}"
        )
    if policy.objective == "energy" and all(kind.joules is None for kind in kinds):
        raise DhhpcError(
            "--objective energy: the watts of the nodes are unknown; give --watts BUSY:IDLE, or --site with "
            "`watts` under its `node`"
        )
    found: list[Choice] = []
    for units in itertools.product(*(range(kind.available + 1) for kind in kinds)):
        ranks = tuple(number * kind.together for number, kind in zip(units, kinds, strict=True))
        if work.fits(sum(ranks)):
            found += choices_of(kinds, ranks, work, policy)
    found = with_front(found)
    allowed = [number for number, choice in enumerate(found) if policy.allows(choice)]
    if policy.objective == "energy":
        allowed = [number for number in allowed if found[number].joules is not None]
    best = min(allowed, key=lambda number: policy.key(found[number]), default=None)
    return found, best


def choices_of(kinds: Sequence[Kind], ranks: tuple[int, ...], work: Work, policy: Policy) -> Iterator[Choice]:
    """The fastest split over these ranks, and the one of least energy where that is another."""
    used = [number for number, count in enumerate(ranks) if count]
    counts = [ranks[number] for number in used]
    paces = [kinds[number].pace for number in used]
    known = [kinds[number].joules for number in used]
    costs = [joules for joules in known if joules is not None]
    measures_energy = len(costs) == len(used)
    batch = work.batch(sum(ranks))
    seconds, totals = splits(batch, counts, paces, costs if measures_energy else paces)

    def forecast_of(number: int) -> Choice:
        by_kind = iter(totals[number])
        samples = [int(next(by_kind)) if count else 0 for count in ranks]
        return forecast(kinds, ranks, samples, work, fastest=number == 0)

    quickest = forecast_of(0)
    yield quickest
    if measures_energy and policy.allows(quickest):
        waiting = sum(count * (kinds[i].idle_watts or 0.0) for i, count in zip(used, counts, strict=True))
        joules = totals @ np.array(costs) + waiting * seconds
        # Whole batches alone tell of most splits that they take too long, whatever the last batch saves.
        slower = work.epochs * (work.samples // batch) * (seconds - seconds[0])
        possible = quickest.seconds + slower - work.epochs * seconds[0] <= policy.longest(quickest)
        for number in sorted(np.flatnonzero(possible), key=joules.__getitem__):
            choice = forecast_of(int(number))
            if policy.allows(choice):
                if not choice.fastest:
                    yield choice
                return


def splits(
    batch: int, counts: Sequence[int], paces: Sequence[float], costs: Sequence[float]
) -> tuple[Array, Array]:
    """The splits of a batch among which, for any limit on its time, is one of least cost within it.

    A split takes as long as some rank with a whole number of samples, so there are few limits to look at.
    Within one, ranks take samples in the order of what a sample costs them, each at least one and as many as
    it can in that time: no other split costs less, as moving a sample to a rank behind never gains.

    Args:
        batch: samples, as many as ranks or more.
        counts: ranks of each kind, all positive.
        paces: seconds that a rank of the kind takes for a sample.
        costs: of a sample on the kind, in any unit.

    Returns:
        seconds: (splits,) float64, of a batch; the first is the least that is possible.
        samples: (splits, kinds) int64, of all ranks of a kind together, shared among them as `share` does.
    """
    ranks, pace = np.array(counts), np.array(paces)
    spare = batch - int(ranks.sum())
    loads = pace[:, None] * np.arange(1, spare + 2)
    limits = np.unique(loads[loads >= pace.max()])
    capacity = ranks * np.stack([np.searchsorted(load, limits, side="right") for load in loads], axis=1)
    enough = capacity.sum(axis=1) >= batch
    capacity = capacity[enough]
    totals = np.tile(ranks, (len(capacity), 1))
    left = np.full(len(capacity), spare)
    for kind in np.argsort(costs, kind="stable"):
        taken = np.minimum(left, capacity[:, kind] - ranks[kind])
        totals[:, kind] += taken
        left -= taken
    new = np.r_[True, (np.diff(totals, axis=0) != 0).any(axis=1)]
    totals = totals[new]
    return (pace * -(-totals // ranks)).max(axis=1), totals


def forecast(
    kinds: Sequence[Kind], ranks: tuple[int, ...], samples: Sequence[int], work: Work, fastest: bool = False
) -> Choice:
    """What it takes to train where the ranks of each kind take `samples` of a whole batch together.

    The last batch of an epoch has what is left, dealt out as the loader does. Ranks that wait for others, or
    while ranks average, take the watts of waiting.
    """
    order = [kind for kind, count in zip(kinds, ranks, strict=True) for _ in range(count)]
    split = [
        len(share(total, rank, count))
        for total, count in zip(samples, ranks, strict=True)
        for rank in range(count)
    ]
    whole, rest = divmod(work.samples, sum(split))
    last = [len(part) for part in parts(rest, split)]
    validated = [len(share(work.images, rank, len(order))) for rank in range(len(order))]

    def slowest(taken: Sequence[int]) -> float:
        return max(kind.pace * count for kind, count in zip(order, taken, strict=True))

    validating = [kind.validation_pace * count for kind, count in zip(order, validated, strict=True)]
    epoch_seconds = (
        whole * slowest(split)
        + slowest(last)
        + (whole + (rest > 0)) * work.meeting(len(order))
        + max(validating)
    )
    seconds = work.once_seconds + work.epochs * (epoch_seconds + work.epoch_seconds)
    of_epoch = [whole * each + tail for each, tail in zip(split, last, strict=True)]
    busy = [
        work.epochs * (kind.pace * count + validation)
        for kind, count, validation in zip(order, of_epoch, validating, strict=True)
    ]
    cores = sum(kind.cores for kind in order)
    edges = [0, *itertools.accumulate(ranks)]
    return Choice(
        ranks=ranks,
        split=tuple(split),
        fastest=fastest,
        samples=tuple(sum(of_epoch[first:end]) for first, end in itertools.pairwise(edges)),
        epoch_seconds=epoch_seconds,
        seconds=seconds,
        core_hours=seconds * cores / HOUR,
        joules=energy(order, busy, seconds),
        efficiency=sum(kind.cores * time for kind, time in zip(order, busy, strict=True)) / (seconds * cores),
    )


def energy(order: Sequence[Kind], busy: Sequence[float], seconds: float) -> float | None:
    """The joules of ranks that compute for `busy` seconds each and wait for the rest of `seconds`."""
    joules = 0.0
    for kind, time in zip(order, busy, strict=True):
        if kind.busy_watts is None or kind.idle_watts is None:
            return None
        joules += kind.busy_watts * time + kind.idle_watts * (seconds - time)
    return joules


def with_front(choices: Sequence[Choice]) -> list[Choice]:
    """The choices with `on_front` told, in time, core-hours and, where it is known of all, energy."""
    if not choices:
        return []
    columns = [[choice.seconds, choice.core_hours] for choice in choices]
    if all(choice.joules is not None for choice in choices):
        columns = [[*row, choice.joules or 0.0] for row, choice in zip(columns, choices, strict=True)]
    values = np.array(columns)
    return [
        replace(choice, on_front=not ((values <= row).all(axis=1) & (values < row).any(axis=1)).any())
        for choice, row in zip(choices, values, strict=True)
    ]


def averaging_seconds(measured: dict[int, float], ranks: int) -> float:
    """Seconds of an averaging over `ranks`, from the seconds measured on other numbers of them.

    The nearest number counts, times (n - 1) / n over the same of it: what each rank sends and receives in the
    best possible sum (Patarasuk and Yuan, 2009, Journal of Parallel and Distributed Computing 69, 117-124).
    It says nothing about latency or a network that gets crowded. 0 on one rank, and without a measurement.
    """
    known = {count: seconds for count, seconds in measured.items() if count > 1}
    if ranks < 2 or not known:
        return 0.0
    nearest = min(known, key=lambda count: (abs(math.log(count / ranks)), count))
    return known[nearest] * (1 - 1 / ranks) / (1 - 1 / nearest)
