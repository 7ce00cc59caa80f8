"""Two studies of the same points, before and after a change: how much longer training takes, and how surely.

Times of training are compared by their logarithms, whose differences are ratios of times, with intervals of
Student's t (Snedecor and Cochran, "Statistical Methods", 1989):

- Of studies measured in turn, a repeat of one and the same repeat of the other, each repeat gives a ratio of
  its own (paired samples, section 6.3). A machine that is slower for some minutes slows both sides of it.
- Of others the spread from run to run is pooled over all points of both, so that few repeats of each tell
  something together (independent samples, section 6.9). What changes on the machine between the two studies
  then counts as a change of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.results import Key, Point, Results, repeats
from dhhpc.scaling.studies.tasks import layout
from dhhpc.training.experiment import differences
from dhhpc.training.statistics import student_quantile

Group = tuple[Sequence[Point], Sequence[Point]]
"""The runs of one point, before and after."""


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
        in_turn: whether they were measured in turn.
        deviation: from run to run of the same point, as a share of its time; of studies measured in turn, of
            the ratios of their repeats.
        unmatched: points that only one of them measured.
        differing: keys of the experiment in which they differ.
    """

    points: list[Change]
    overall: Change
    in_turn: bool
    deviation: float
    unmatched: list[str]
    differing: list[str]

    def verdict(self, tolerance: float) -> str:
        """ "slower" or "faster" where the whole interval over all points is beyond the tolerance; else
        "no difference beyond it"."""
        if self.overall.low > 1 + tolerance:
            return "slower"
        return "faster" if self.overall.high < 1 / (1 + tolerance) else "no difference beyond it"


@dataclass(frozen=True)
class Estimate:
    """A difference of mean logarithms and half the length of its interval."""

    difference: float
    half: float


def compare(before: Results, after: Results) -> Comparison:
    """What became of the times of training.

    Raises:
        DhhpcError: the studies share no point, or none was repeated, so that chance is unknown.
    """
    sides = repeats(before.points), repeats(after.points)
    shared = [key for key in sides[0] if key in sides[1]]
    if not shared:
        raise DhhpcError("the studies share no finished point of the same variant, threads, nodes and ranks")
    groups = [(sides[0][key], sides[1][key]) for key in shared]
    numbers = repeats_in_turn(groups)
    in_turn = len(numbers) > 1
    deviation, overall, each = paired(groups, numbers) if in_turn else pooled(groups)
    points = []
    for (variant, threads, nodes, ranks), group, estimate in zip(shared, groups, each, strict=True):
        medians = [float(np.median(list(seconds_of(side).values()))) for side in group]
        points.append(
            Change(
                variant=variant,
                threads=threads,
                nodes=nodes,
                ranks=ranks,
                before=medians[0],
                after=medians[1],
                **interval(estimate),
            )
        )
    return Comparison(
        points=points,
        overall=Change(**interval(overall)),
        in_turn=in_turn,
        deviation=deviation,
        unmatched=sorted(named(key) for key in sides[0].keys() ^ sides[1].keys()),
        differing=differences(before.experiment, after.experiment),
    )


def seconds_of(points: Sequence[Point]) -> dict[int, float]:
    """totm by repeat."""
    return {point.repeat: point.totm for point in points if point.totm is not None}


def repeats_in_turn(groups: Sequence[Group]) -> list[int]:
    """The repeats of which both studies have all points, if every one began when the one before it had begun
    on all points of both; else none."""
    runs = [point for group in groups for side in group for point in side]
    whole = set.intersection(*({point.repeat for point in side} for group in groups for side in group))
    if any(point.started is None for point in runs):
        return []
    began = [
        [datetime.fromisoformat(point.started or "") for point in runs if point.repeat == repeat]
        for repeat in sorted(whole)
    ]
    return sorted(whole) if all(max(one) < min(other) for one, other in pairwise(began)) else []


def paired(groups: Sequence[Group], numbers: Sequence[int]) -> tuple[float, Estimate, list[Estimate]]:
    """The deviation of the repeats' ratios over all points, the change over all of them, and of each."""
    logarithms = np.log([[[seconds_of(side)[n] for n in numbers] for side in group] for group in groups])
    changes = logarithms[:, 1] - logarithms[:, 0]  # (points, repeats)
    wide = student_quantile(len(numbers) - 1) / math.sqrt(len(numbers))
    deviation = float(changes.mean(axis=0).std(ddof=1))
    each = [Estimate(float(row.mean()), wide * float(row.std(ddof=1))) for row in changes]
    return deviation, Estimate(float(changes.mean()), wide * deviation), each


def pooled(groups: Sequence[Group]) -> tuple[float, Estimate, list[Estimate]]:
    """The same with the deviation of runs of the same point.

    Raises:
        DhhpcError: no point was repeated.
    """
    logarithms = [[np.log(list(seconds_of(side).values())) for side in group] for group in groups]
    freedom = sum(len(side) - 1 for group in logarithms for side in group)
    if not freedom:
        raise DhhpcError(
            "no point was measured twice, so a difference cannot be told from chance; give the studies "
            "`repeats` of 3 or more and run them again: measured points are kept"
        )
    squares = sum(float(((side - side.mean()) ** 2).sum()) for group in logarithms for side in group)
    deviation = math.sqrt(squares / freedom)
    wide = student_quantile(freedom) * deviation
    changes = [float(other.mean() - one.mean()) for one, other in logarithms]
    variances = [1 / len(one) + 1 / len(other) for one, other in logarithms]
    overall = Estimate(sum(changes) / len(groups), wide * math.sqrt(sum(variances)) / len(groups))
    each = [Estimate(change, wide * math.sqrt(part)) for change, part in zip(changes, variances, strict=True)]
    return deviation, overall, each


def interval(estimate: Estimate) -> dict[str, float]:
    return {
        "ratio": math.exp(estimate.difference),
        "low": math.exp(estimate.difference - estimate.half),
        "high": math.exp(estimate.difference + estimate.half),
    }


def named(key: Key) -> str:
    variant, threads, nodes, ranks = key
    name = layout(ranks, nodes, threads)
    return f"{variant}: {name}" if variant else name
