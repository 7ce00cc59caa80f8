"""Metrics of a batch: means over its samples. Targets have the prediction's shape or are class indices.

Each is a function of sums over pixels, so that those of parts of an image can be added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dhhpc.eddl.graph import Array
from dhhpc.errors import DhhpcError


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        sums: of a prediction and its target: float64, any shape.
        of_sums: the metric, from those of whole images.
    """

    sums: Callable[[Array, Array], Array]
    of_sums: Callable[[Array], float]

    def __call__(self, prediction: Array, target: Array) -> float:
        return self.of_sums(self.sums(prediction, target))


def accuracy_sums(prediction: Array, target: Array) -> Array:
    """How many are right, and how many there are."""
    if prediction.shape[1] == 1:
        right = (prediction > 0.5) == (target > 0.5)
    else:
        right = prediction.argmax(axis=1) == classes_of(target, prediction)
    return np.array([np.count_nonzero(right), right.size], np.float64)


def accuracy(sums: Array) -> float:
    """Share of samples (or pixels) whose most probable class is the target's; with one channel, of those on
    the same side of 0.5."""
    return float(sums[0] / sums[1])


def dice_sums(prediction: Array, target: Array) -> Array:
    """|P and T| and |P| + |T| of each sample and channel."""
    axes = tuple(range(2, prediction.ndim))
    if prediction.shape[1] == 1:
        predicted, expected = prediction > 0.5, target > 0.5
    else:
        classes = np.arange(1, prediction.shape[1]).reshape(1, -1, *(1 for _ in axes))
        predicted = np.expand_dims(prediction.argmax(axis=1), 1) == classes
        expected = np.expand_dims(classes_of(target, prediction), 1) == classes
    both = (predicted & expected).sum(axis=axes)
    return np.array([both, predicted.sum(axis=axes) + expected.sum(axis=axes)], np.float64)


def dice(sums: Array) -> float:
    """Mean over samples and channels of 2 |P and T| / (|P| + |T|) at threshold 0.5; 1 where both are empty.

    (Dice, 1945.) With several channels the first is the background and left out.
    """
    both, sizes = sums
    return float(np.mean(np.where(sizes == 0, 1.0, 2 * both / np.maximum(sizes, 1))))


def classes_of(target: Array, prediction: Array) -> Array:
    """The class index of each sample or pixel."""
    return target.argmax(axis=1) if target.ndim == prediction.ndim else target


METRICS = {"accuracy": Metric(accuracy_sums, accuracy), "dice": Metric(dice_sums, dice)}


def metric(name: str) -> Metric:
    """The metric called `name`; raises DhhpcError when it is unknown."""
    if name not in METRICS:
        raise DhhpcError(f"metric {name!r} is unknown; choose one of {', '.join(METRICS)}")
    return METRICS[name]
