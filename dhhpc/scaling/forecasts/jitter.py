"""How ranks differ in speed, and the steps of each: drawn, seeded, with a mean of 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Jitter:
    """Factors on the seconds of a step. All have a mean of 1.

    Attributes:
        rank: standard deviation of the logarithm of a rank's pace, which stays as it is.
        epoch: the same of a rank in one epoch, beside its own.
        step: the same of one step, unless there are `residuals`.
        residuals: measured seconds of steps divided by their mean, to draw from; empty for none.
    """

    rank: float = 0.0
    epoch: float = 0.0
    step: float = 0.0
    residuals: tuple[float, ...] = ()

    def ranks(self, random: np.random.Generator, count: int) -> Array:
        """A factor for each rank, for all of a run; (count,) float64."""
        return lognormal(random, self.rank, count)

    def epochs(self, random: np.random.Generator, count: int) -> Array:
        """A factor for each rank, for an epoch."""
        return lognormal(random, self.epoch, count)

    def steps(self, random: np.random.Generator, count: int) -> Array:
        """A factor for each rank, for a step."""
        if self.residuals:
            return np.asarray(self.residuals)[random.integers(len(self.residuals), size=count)]
        return lognormal(random, self.step, count)


def lognormal(random: np.random.Generator, deviation: float, count: int) -> Array:
    """(count,) draws with a mean of 1, whose logarithm deviates by `deviation`."""
    if not deviation:
        return np.ones(count)
    return np.exp(random.standard_normal(count) * deviation - deviation**2 / 2)


def residuals_of(seconds: Sequence[float]) -> tuple[float, ...]:
    """The seconds of steps that are alike, divided by their mean."""
    values = np.asarray(seconds, float)
    return tuple(map(float, values / values.mean()))
