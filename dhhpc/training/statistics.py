"""Mean, sample standard deviation and confidence interval of a few repeated measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """What n values say about their population.

    Attributes:
        mean: of the values.
        deviation: the sample standard deviation, with n - 1; None of a single value.
        interval: where the population's mean lies with 95 % confidence if the values are independent and
            normally distributed: mean -+ t deviation / sqrt(n), with Student's t of n - 1 degrees of freedom
            (Student, Biometrika 6, 1908). None of a single value.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def spread(values: Sequence[float]) -> Spread:
    """The `Spread` of at least one value."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean, None, None)
    deviation = statistics.stdev(values)
    half = student_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half))


def student_quantile(freedom: int) -> float:
    """The t for which Student's distribution with `freedom` degrees of freedom has 95 % between -t and t."""
    low, high = 0.0, 16.0  # of one degree of freedom it is 12.7, of more it is less
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def student_within(t: float, freedom: int) -> float:
    """The probability that Student's distribution gives a number between -t and t.

    A finite sum for whole degrees of freedom (Abramowitz and Stegun, Handbook of Mathematical Functions,
    26.7.3 and 26.7.4).
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
