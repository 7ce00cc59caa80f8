"""Metrics of a whole split, from whole-number counts that are summed exactly over batches and ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from dhhpc.mpi import World

Array = np.ndarray[Any, Any]

# A bin holds the probabilities whose float32 patterns share all but the last 14 bits.
BIN_SHIFT = 14
HALF_BINS = int(np.float32(0.5).view(np.int32)) >> BIN_SHIFT
BINS = 2 * HALF_BINS + 1


class Counts(ABC):
    """Accumulates batches of one task."""

    @abstractmethod
    def add(self, predictions: Array, targets: Array, regions: Array | None) -> None:
        """Count a batch."""

    @abstractmethod
    def arrays(self) -> list[Array]:
        """Everything counted, to be summed over the ranks."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """The metrics; floats, or None where one is undefined."""

    def reduce(self, world: World) -> None:
        """Sum the counts over the ranks, on all of them."""
        for array in self.arrays():
            world.allreduce_sum(array)


class SegmentationCounts(Counts):
    """Pixels of each foreground class.

    Args:
        classes: names of the foreground classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        # True and false positives, false and true negatives.
        self.pixels = np.zeros((len(self.classes), 4), np.int64)
        self.scores = np.zeros((len(self.classes), 2, BINS), np.int64)
        self.correct = np.zeros(2, np.int64)
        self.images = np.zeros(2)

    def add(self, predictions: Array, targets: Array, regions: Array | None) -> None:
        """Count n images.

        Args:
            predictions: probabilities (n, 1, H, W), or (n, 1 + classes, H, W) with the background first.
            targets: of the same shape, 0 or 1.
            regions: (n, H, W), 0 where pixels do not count, or None.
        """
        single = predictions.shape[1] == 1
        if single:
            predicted, expected = (array[:, 0] > 0.5 for array in (predictions, targets))
            predicted, expected = predicted.astype(np.int64), expected.astype(np.int64)
        else:
            predicted, expected = predictions.argmax(axis=1), targets.argmax(axis=1)
        inside = np.ones(predicted.shape, bool) if regions is None else regions != 0
        self.correct += [np.count_nonzero((predicted == expected) & inside), np.count_nonzero(inside)]
        for index in range(len(self.classes)):
            found, there = (predicted == index + 1) & inside, (expected == index + 1) & inside
            both = (found & there).sum(axis=(1, 2))
            sizes = found.sum(axis=(1, 2)) + there.sum(axis=(1, 2))
            positive, true = int(np.count_nonzero(found)), int(np.count_nonzero(there))
            hits = int(both.sum())
            rest = int(np.count_nonzero(inside)) - positive - true + hits
            self.pixels[index] += [hits, positive - hits, true - hits, rest]
            self.images += [np.where(sizes == 0, 1.0, 2 * both / np.maximum(sizes, 1)).sum(), len(both)]
            scores = predictions[:, 0 if single else index + 1][inside]
            self.scores[index] += score_histogram(scores, there[inside])

    def arrays(self) -> list[Array]:
        return [self.pixels, self.scores, self.correct, self.images]

    def results(self) -> dict[str, Any]:
        """dice, iou, precision, recall, f1, auc: means over the foreground classes, each over all pixels of
        the split (so dice and f1 are the same number); image_dice: the mean over images and classes (1 where
        a class is neither there nor found); accuracy over pixels; with several classes also `classes`, the
        same by name."""
        by_class = {
            name: ratios(*(int(count) for count in pixels[:3])) | {"auc": area_under_curve(scores)}
            for name, pixels, scores in zip(self.classes, self.pixels, self.scores, strict=True)
        }
        means: dict[str, Any] = mean_over_classes(by_class)
        means["image_dice"] = float(self.images[0] / self.images[1]) if self.images[1] else None
        means["accuracy"] = float(self.correct[0] / self.correct[1]) if self.correct[1] else None
        return means if len(self.classes) == 1 else means | {"classes": by_class}


class ClassificationCounts(Counts):
    """Samples of each class.

    Args:
        classes: names of all classes.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)
        self.scores = np.zeros((len(self.classes), 2, BINS), np.int64)

    def add(self, predictions: Array, targets: Array, regions: Array | None = None) -> None:
        """Count n samples: probabilities and one-hot targets, both (n, classes)."""
        expected = targets.argmax(axis=1)
        np.add.at(self.confusion, (expected, predictions.argmax(axis=1)), 1)
        for index in range(len(self.classes)):
            self.scores[index] += score_histogram(predictions[:, index], expected == index)

    def arrays(self) -> list[Array]:
        return [self.confusion, self.scores]

    def results(self) -> dict[str, Any]:
        """accuracy; precision, recall, f1, dice, iou and auc (one class against the rest) as means over the
        classes; `classes` with each of them by name; `confusion`: rows are the true classes."""
        by_class = {}
        for index, name in enumerate(self.classes):
            hits = int(self.confusion[index, index])
            found, there = int(self.confusion[:, index].sum()), int(self.confusion[index].sum())
            by_class[name] = ratios(hits, found - hits, there - hits) | {
                "auc": area_under_curve(self.scores[index])
            }
        total = int(self.confusion.sum())
        means: dict[str, Any] = {"accuracy": float(np.trace(self.confusion) / total) if total else None}
        means |= mean_over_classes(by_class)
        return means | {"classes": by_class, "confusion": self.confusion.tolist()}


def ratios(hits: int, false_alarms: int, misses: int) -> dict[str, float | None]:
    """dice, iou, precision, recall and f1 from true positives, false positives and false negatives.

    Where a class is neither there nor found, dice, iou and f1 are 1; precision and recall over nothing are 0,
    as in scikit-learn.
    """
    empty = hits + false_alarms + misses == 0
    dice = 1.0 if empty else 2 * hits / (2 * hits + false_alarms + misses)
    return {
        "dice": dice,
        "iou": 1.0 if empty else hits / (hits + false_alarms + misses),
        "precision": hits / max(hits + false_alarms, 1),
        "recall": hits / max(hits + misses, 1),
        "f1": dice,
    }


def mean_over_classes(by_class: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Each metric's mean over the classes that define it; None where none does."""
    means: dict[str, float | None] = {}
    for name in next(iter(by_class.values())):
        values = [value for found in by_class.values() if (value := found[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def score_histogram(scores: Array, positive: Array) -> Array:
    """How many negative and positive samples fall into each bin of probability: (2, BINS) int64.

    The bins are as fine near 0 and near 1 as the probabilities of a confident network there: a bin is 2**-9
        of
    p wide below one half, of 1 - p above.

    Args:
        scores: probabilities (n,) float32 in [0, 1].
        positive: (n,) bool.
    """
    scores = np.clip(np.ascontiguousarray(scores, dtype=np.float32), 0, 1)
    low = np.minimum(scores, np.float32(1) - scores).view(np.int32) >> BIN_SHIFT
    bins = np.where(scores <= 0.5, low, 2 * HALF_BINS - low)
    counts = np.bincount(bins + positive.astype(np.int64) * BINS, minlength=2 * BINS)
    return counts.reshape(2, BINS)


def area_under_curve(histogram: Array) -> float | None:
    """The area under the receiver operating characteristic: the probability that a positive scores above a
    negative, ties (here: the same bin) counting half (Mann and Whitney, 1947). None without both kinds."""
    negative, positive = histogram
    total = int(negative.sum()) * int(positive.sum())
    if not total:
        return None
    below = np.cumsum(negative) - negative
    return float((positive.astype(np.float64) * (below + negative / 2)).sum() / total)


def without_details(metrics: dict[str, Any]) -> dict[str, Any]:
    """The single numbers among the metrics."""
    return {name: value for name, value in metrics.items() if not isinstance(value, dict | list)}
