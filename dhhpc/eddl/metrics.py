"""Metrics of a batch: means over its samples. Targets have the prediction's shape or are class indices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dhhpc.eddl.graph import Array
from dhhpc.errors import DhhpcError


def accuracy(prediction: Array, target: Array) -> float:
    """Share of samples (or pixels) whose most probable class is the target's; with one channel, of those on
    the same side of 0.5."""
    if prediction.shape[1] == 1:
        return float(np.mean((prediction > 0.5) == (target > 0.5)))
    return float(np.mean(prediction.argmax(axis=1) == classes_of(target, prediction)))


def dice(prediction: Array, target: Array) -> float:
    """Mean over samples and channels of 2 |P and T| / (|P| + |T|) at threshold 0.5; 1 where both are empty.

    (Dice, 1945.) With several channels the first is the background and left out.
    """
    axes = tuple(range(2, prediction.ndim))
    if prediction.shape[1] == 1:
        predicted, expected = prediction > 0.5, target > 0.5
    else:
        classes = np.arange(1, prediction.shape[1]).reshape(1, -1, *(1 for _ in axes))
        predicted = np.expand_dims(prediction.argmax(axis=1), 1) == classes
        expected = np.expand_dims(classes_of(target, prediction), 1) == classes
    both = (predicted & expected).sum(axis=axes)
    sizes = predicted.sum(axis=axes) + expected.sum(axis=axes)
    return float(np.mean(np.where(sizes == 0, 1.0, 2 * both / np.maximum(sizes, 1))))


def classes_of(target: Array, prediction: Array) -> Array:
    """The class index of each sample or pixel."""
    return target.argmax(axis=1) if target.ndim == prediction.ndim else target


METRICS: dict[str, Callable[[Array, Array], float]] = {"accuracy": accuracy, "dice": dice}


def metric(name: str) -> Callable[[Array, Array], float]:
    """The metric called `name`; raises DhhpcError when it is unknown."""
    if name not in METRICS:
        raise DhhpcError(f"metric {name!r} is unknown; choose one of {', '.join(METRICS)}")
    return METRICS[name]
