"""What ranks gain over a base: speed-up, efficiency, serial fraction, and intervals by drawing runs again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from dhhpc.documents import Document
from dhhpc.scaling import kpis
from dhhpc.scaling.bootstrap import (
    DRAWS,
    FEWEST_RUNS,
    SEED,
    Array,
    interval_of,
    medians_drawn,
    most_confidence,
)
from dhhpc.training.statistics import CONFIDENCE


class Interval(Document):
    """A 95 % confidence interval; see `dhhpc.scaling.bootstrap`."""

    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """The seconds of all runs on one number of ranks.

    Attributes:
        median: of an even number of runs, the faster one in the middle.
        drawn: medians of runs drawn again; None of fewer than three runs.
        interval: of the median; None likewise.
        confidence: the most that an interval of so many runs can have; None likewise.
    """

    ranks: int
    median: float
    drawn: Array | None
    interval: Interval | None
    confidence: float | None


@dataclass(frozen=True)
class Gains:
    """Figures of `dhhpc.scaling.kpis` for one number of ranks, each with its interval.

    An interval is None of fewer than three runs, and of the base's own speed-up, which is so by definition;
    `karp_flatt` is None but for a strong speed-up over one rank.
    """

    speed_up: float
    speed_up_interval: Interval | None
    efficiency: float
    efficiency_interval: Interval | None
    karp_flatt: float | None
    karp_flatt_interval: Interval | None


def times_of_runs(ranks: int, seconds: Sequence[float]) -> Times:
    """The median of runs on so many ranks, and how sure it is."""
    enough = len(seconds) >= FEWEST_RUNS
    drawn = medians_drawn(seconds, DRAWS, (SEED, ranks)) if enough else None
    return Times(
        ranks=ranks,
        median=statistics.median_low(seconds),
        drawn=drawn,
        interval=None if drawn is None else interval(drawn),
        confidence=most_confidence(len(seconds)) if enough else None,
    )


def gains(times: Times, base: Times | None, mode: str) -> Gains:
    """What `times.ranks` ranks gain over `base`; None where they are the base themselves."""
    ranks = times.ranks
    base_ranks, seconds = (base.ranks, base.median) if base else (ranks, times.median)
    speed_up = kpis.speed_up(base_ranks, seconds, ranks, times.median, mode)
    gained: Interval | None = None
    if times.drawn is not None and base is not None and base.drawn is not None:
        # The same for every drawn pair of medians as for the measured pair.
        gained = interval(base.drawn / times.drawn * (speed_up * times.median / seconds))
    amdahl = mode == "strong" and base_ranks == 1 < ranks
    karp_flatt = partial(kpis.karp_flatt, ranks=ranks)
    return Gains(
        speed_up=speed_up,
        speed_up_interval=gained,
        efficiency=kpis.efficiency(speed_up, ranks),
        efficiency_interval=of_both_ends(gained, partial(kpis.efficiency, ranks=ranks)),
        karp_flatt=karp_flatt(speed_up) if amdahl else None,
        karp_flatt_interval=of_both_ends(gained, karp_flatt) if amdahl else None,
    )


def interval(drawn: Array) -> Interval:
    low, high = interval_of(drawn)
    return Interval(low=low, high=high)


def of_both_ends(gained: Interval | None, figure: Callable[[float], float]) -> Interval | None:
    """The interval of a figure that only grows, or only falls, with the speed-up."""
    if gained is None:
        return None
    low, high = sorted(figure(end) for end in (gained.low, gained.high))
    return Interval(low=low, high=high)


def interval_name(confidences: Iterable[float | None]) -> str:
    """What intervals are called: "95 % interval", or of the confidence that so few runs can have at most.

    Args:
        confidences: `Times.confidence` of every row; None of those without an interval.
    """
    known = [each for each in confidences if each is not None]
    return f"{min([CONFIDENCE, *known]):.0%} interval".replace("%", " %")
