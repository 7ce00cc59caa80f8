"""What is known of a model after it was fitted to measured times, or why it was not fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pydantic

from dhhpc.documents import Document

Array = np.ndarray[Any, Any]
ModelName = Literal["amdahl", "gustafson", "usl", "mechanistic"]


class Parameter(Document):
    """A fitted parameter with its 95 % bootstrap interval; `unit` is empty for a plain number."""

    name: str
    unit: str
    value: float
    low: float
    high: float


class CurvePoint(Document):
    """The seconds that the model tells for a number of ranks within those measured."""

    ranks: int
    # Results of earlier versions call it totm.
    seconds: float = pydantic.Field(validation_alias=pydantic.AliasChoices("seconds", "totm"))


class Fit(Document):
    """A model fitted to the seconds of runs on several rank counts, or `refused` with a sentence why.

    Attributes:
        observations: runs that it was fitted to.
        r_squared: the part of the variance of the seconds that the model explains; None where they do not
            vary.
        relative_rmse: the root of the mean squared error, each as a part of the mean of its rank count.
        aicc: Akaike's information criterion with the correction for few observations (Hurvich and Tsai,
            Biometrika 76(2), 1989): of models of the same runs, the one with the least is to be preferred,
            and a difference below 2 says nothing. None where there are too few runs for it, or no error is
            left.
    """

    model: ModelName
    refused: str | None = None
    observations: int = 0
    parameters: list[Parameter] = []
    r_squared: float | None = None
    relative_rmse: float | None = None
    aicc: float | None = None
    curve: list[CurvePoint] = []


def too_few(what: str, parameters: int, counts: int) -> str | None:
    """Why `counts` different rank counts are too thin for so many parameters; None where they are not."""
    if counts > parameters:
        return None
    return (
        f"{what} has {parameters} parameter{'s' if parameters > 1 else ''} and needs {parameters + 1} "
        f"different rank counts; measured: {counts}"
    )


def usual(ranks: Array, seconds: Array) -> Array:
    """(N,) mean seconds of the runs on as many ranks as each: what their errors are parts of."""
    _, places, runs = np.unique(ranks, return_inverse=True, return_counts=True)
    means: Array = (np.bincount(places, seconds) / runs)[places]
    return means


def goodness(ranks: Array, seconds: Array, modelled: Array, parameters: int) -> dict[str, float | None]:
    """`r_squared`, `relative_rmse` and `aicc` of a model with so many parameters; all arrays (N,).

    Errors are taken as parts of what is usual on as many ranks, independent and normally distributed.
    """
    count = len(seconds)
    relative = float((((modelled - seconds) / usual(ranks, seconds)) ** 2).sum())
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    # The spread of the errors is a parameter, too.
    free = parameters + 1
    aicc = None
    if count > free + 1 and relative > 0:
        aicc = count * math.log(relative / count) + 2 * free + 2 * free * (free + 1) / (count - free - 1)
    return {
        "r_squared": 1 - float(((modelled - seconds) ** 2).sum()) / spread if spread else None,
        "relative_rmse": math.sqrt(relative / count),
        "aicc": aicc,
    }


def between(ranks: Sequence[int], most: int = 64) -> list[int]:
    """Rank counts from the fewest to the most measured, all of them or so many at equal ratios."""
    first, last = min(ranks), max(ranks)
    if last - first < most:
        return list(range(first, last + 1))
    spaced = np.geomspace(first, last, most).round().astype(int).tolist()
    return sorted({*spaced, *ranks})
