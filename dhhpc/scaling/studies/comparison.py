"""Two studies of the same points, before and after a change: how much longer training takes, and how surely.

Times of training are compared by their logarithms, whose differences are ratios of times. The spread from run
to run is pooled over all points of both studies, so that few repeats of each tell something together; the
interval is that of Student's t (Snedecor and Cochran, "Statistical Methods", 1989, section 6.9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.results import Key, Results
from dhhpc.scaling.studies.tasks import layout
from dhhpc.training.experiment import differences
from dhhpc.training.statistics import student_quantile


class Change(Document):
    """How often as long training takes after the change, on one point or over all (geometric mean).

    Attributes:
        variant, threads, nodes, ranks: of the point; None over all.
        before, after: medians of totm in seconds; None over all.
        ratio, low, high: of the times, with its 95 % interval.
    """

    variant: str | None = None
    threads: int | None = None
    nodes: int | None = None
    ranks: int | None = None
    before: float | None = None
    after: float | None = None
    ratio: float
    low: float
    high: float


class Comparison(Document):
    """What two studies tell of a change.

    Attributes:
        points: those that both measured.
        overall: the change over all of them.
        deviation: from run to run of the same point, as a share of its time.
        unmatched: points that only one of them measured.
        differing: keys of the experiment in which they differ.
    """

    points: list[Change]
    overall: Change
    deviation: float
    unmatched: list[str]
    differing: list[str]

    def verdict(self, tolerance: float) -> str:
        """ "slower" or "faster" where the whole interval over all points is beyond the tolerance; else
        "no difference beyond it"."""
        if self.overall.low > 1 + tolerance:
            return "slower"
        return "faster" if self.overall.high < 1 / (1 + tolerance) else "no difference beyond it"


def compare(before: Results, after: Results) -> Comparison:
    """What became of the times of training.

    Raises:
        DhhpcError: the studies share no point, or none was repeated, so that chance is unknown.
    """
    times = [times_of(results) for results in (before, after)]
    shared = [key for key in times[0] if key in times[1]]
    if not shared:
        raise DhhpcError("the studies share no finished point of the same variant, threads, nodes and ranks")
    groups = [(times[0][key], times[1][key]) for key in shared]
    freedom = sum(len(one) + len(other) - 2 for one, other in groups)
    if not freedom:
        raise DhhpcError(
            "no point was measured twice, so a difference cannot be told from chance; give the studies "
            "`repeats` of 3 or more and run them again: measured points are kept"
        )
    squares = sum(
        float(((np.log(side) - np.log(side).mean()) ** 2).sum()) for group in groups for side in group
    )
    deviation = math.sqrt(squares / freedom)
    wide = student_quantile(freedom) * deviation
    points = []
    for (variant, threads, nodes, ranks), (one, other) in zip(shared, groups, strict=True):
        points.append(
            Change(
                variant=variant,
                threads=threads,
                nodes=nodes,
                ranks=ranks,
                before=float(np.median(one)),
                after=float(np.median(other)),
                **interval(difference(one, other), wide * math.sqrt(1 / len(one) + 1 / len(other))),
            )
        )
    mean = float(np.mean([difference(*group) for group in groups]))
    spread = math.sqrt(sum(1 / len(one) + 1 / len(other) for one, other in groups)) / len(groups)
    return Comparison(
        points=points,
        overall=Change(**interval(mean, wide * spread)),
        deviation=deviation,
        unmatched=sorted(named(key) for key in times[0].keys() ^ times[1].keys()),
        differing=differences(before.experiment, after.experiment),
    )


def times_of(results: Results) -> dict[Key, list[float]]:
    """totm of all finished runs of each point."""
    found: dict[Key, list[float]] = {}
    for point in results.points:
        if point.totm is not None and point.threads is not None:
            key = (point.variant, point.threads, point.nodes, point.ranks)
            found.setdefault(key, []).append(point.totm)
    return found


def difference(before: Sequence[float], after: Sequence[float]) -> float:
    """Of the mean logarithms."""
    return float(np.log(after).mean() - np.log(before).mean())


def interval(logarithm: float, half: float) -> dict[str, float]:
    return {
        "ratio": math.exp(logarithm),
        "low": math.exp(logarithm - half),
        "high": math.exp(logarithm + half),
    }


def named(key: Key) -> str:
    variant, threads, nodes, ranks = key
    name = layout(ranks, nodes, threads)
    return f"{variant}: {name}" if variant else name
