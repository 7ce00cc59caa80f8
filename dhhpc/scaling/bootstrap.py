"""Confidence intervals by the bootstrap: what other runs, or other errors of the same size, would have told.

Methods: Efron and Tibshirani, "An Introduction to the Bootstrap", Chapman and Hall, 1993: resampling of
residuals (section 9.4) and percentile intervals (section 13.3). Percentile intervals of few values are too
narrow; where a model is fitted they are widened by Student's t, after Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 69(4), 2015.

All of it is repeatable: the same values and seed give the same interval, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

from dhhpc.training.statistics import CONFIDENCE, student_quantile

Array = np.ndarray[Any, Any]

DRAWS = 2000
SEED = 1
# Of fewer values the interval of a median says next to nothing.
FEWEST_RUNS = 3
TAILS = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)


def errors_drawn(errors: Array, parameters: int, draws: int, seed: int) -> Array:
    """Errors of a fit drawn again with replacement.

    A fit with p parameters comes closer to its N values than the truth does, so its errors are first centred
    and widened by sqrt(N / (N - p)) (Davison and Hinkley, "Bootstrap Methods and their Application", 1997,
    section 6.2.3).

    Args:
        errors: (N,) float, relative or absolute.

    Returns:
        (N, draws) float.
    """
    count = len(errors)
    fair: Array = (errors - errors.mean()) * math.sqrt(count / (count - parameters))
    drawn: Array = fair[np.random.default_rng(seed).integers(count, size=(count, draws))]
    return drawn


def interval_of_estimate(
    value: float, drawn: Array, freedom: int, most: float = math.inf
) -> tuple[float, float]:
    """The interval of a fitted parameter from 0 to `most`.

    Args:
        value: as fitted.
        drawn: (draws,), as fitted to drawn errors.
        freedom: values less parameters, at least 1: of few, the percentiles' distances from `value` are
            widened by Student's t over that of many.
    """
    low, high = np.percentile(drawn, TAILS)
    wider = widening(freedom)
    below, above = wider * max(0.0, value - low), wider * max(0.0, high - value)
    return max(0.0, float(value - below)), min(most, float(value + above))


@cache
def widening(freedom: int) -> float:
    """Student's t over that of infinitely many degrees of freedom."""
    return student_quantile(freedom) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def medians_drawn(seconds: Sequence[float], draws: int, seed: Sequence[int]) -> Array:
    """(draws,) medians of runs drawn again with replacement; of an even number, the faster in the middle."""
    values = np.asarray(seconds, float)
    picked = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    medians: Array = np.sort(values[picked], axis=1)[:, (len(values) - 1) // 2]
    return medians


def interval_of(drawn: Array) -> tuple[float, float]:
    """The percentile interval of what was drawn."""
    low, high = np.percentile(drawn, TAILS)
    return float(low), float(high)


def most_confidence(runs: int) -> float:
    """With which confidence the fastest and the slowest of `runs` runs, beyond which no bootstrap sees, have
    the true median between them: 1 - 2 (1/2)^runs, since by chance all may lie on one side of it."""
    return 1 - 2 * 0.5**runs
