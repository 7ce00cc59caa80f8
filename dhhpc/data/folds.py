"""Cross-validation: training and validation samples cut into parts, each of which validates once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from dhhpc.data.shards import ShardSet
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError

Array = np.ndarray[Any, Any]
POOLED = ("training", "validation")


class Fold(Document):
    """One part of a cross-validation.

    Attributes:
        part: the part that validates, from 1; all others train.
        of: how many parts there are.
        seed: of the cut.
    """

    part: pydantic.PositiveInt
    of: int = pydantic.Field(ge=2)
    seed: pydantic.NonNegativeInt = 1

    @pydantic.model_validator(mode="after")
    def _check_part(self) -> Fold:
        if self.part > self.of:
            raise ValueError(f"part {self.part} of {self.of} folds; give one from 1 to {self.of}")
        return self


class FoldedShards(ShardSet):
    """Shards whose training and validation samples, taken together, are cut anew; the test split stays.

    Samples of one group (`ShardSet.groups`: a patient, or an image with all its slices) stay together.
    Groups are dealt by `deal`, for classification in proportion to their classes.

    Args:
        folder: holds `index.json` and the shards.
        fold: which part validates.
        splits: see `ShardSet`; training and validation must be among them.

    Raises:
        DhhpcError: as `ShardSet`, or there are fewer groups than folds.
    """

    def __init__(self, folder: Path | str, fold: Fold, splits: Sequence[str] | None = None) -> None:
        # A view: everything that is stored is read, checked and kept by the whole set.
        self.whole = ShardSet(folder, splits=splits)
        self.folder, self.index, self.fold = self.whole.folder, self.whole.index, fold
        pool = [(split, index) for split in POOLED for index in range(self.whole.count(split))]
        groups = [group for split in POOLED for group in self.whole.groups(split)]
        if len(set(groups)) < fold.of:
            raise DhhpcError(
                f"{folder}: training and validation hold {len(set(groups))} images (or patients) for "
                f"{fold.of} folds; ask for at most as many, or preprocess more images"
            )
        labels = [self.whole.labels(split) for split in POOLED if self.whole.count(split)]
        parts = deal(groups, np.concatenate(labels), fold.of, fold.seed)
        self.places = {
            "training": [place for place, part in zip(pool, parts, strict=True) if part != fold.part - 1],
            "validation": [place for place, part in zip(pool, parts, strict=True) if part == fold.part - 1],
        }

    def count(self, split: str) -> int:
        return len(self.places[split]) if split in self.places else self.whole.count(split)

    @contextlib.contextmanager
    def sample(self, split: str, index: int) -> Iterator[tuple[Array, Array, Array | None]]:
        if split in self.places:
            if not 0 <= index < self.count(split):
                raise IndexError(f"sample {index} of split {split}, which has {self.count(split)}")
            split, index = self.places[split][index]
        with self.whole.sample(split, index) as stored:
            yield stored

    def identifiers(self, split: str) -> list[str]:
        return self._gathered(split, self.whole.identifiers)

    def groups(self, split: str) -> list[str]:
        return self._gathered(split, self.whole.groups)

    def labels(self, split: str) -> Array:
        return np.array(self._gathered(split, self.whole.labels), np.uint8)

    def cached_bytes(self, split: str, samples: int) -> int:
        """At most: a fold has samples of several splits, of which some may be kept."""
        if split not in self.places:
            return self.whole.cached_bytes(split, samples)
        return max(self.whole.cached_bytes(stored, 1) for stored in POOLED) * samples

    def close(self) -> None:
        self.whole.close()

    def _gathered(self, split: str, read: Any) -> list[Any]:
        """What `read` tells of each sample of a split of the whole set, for the samples of this one."""
        if split not in self.places:
            return list(read(split))
        stored = {name: read(name) for name in POOLED}
        return [stored[name][index] for name, index in self.places[split]]


def deal(groups: Sequence[str], labels: Array, folds: int, seed: int) -> Array:
    """The fold, from 0, of every sample: groups whole, folds alike in their classes and sizes.

    Groups are shuffled and dealt one by one, the largest first and those of one class behind each other, to
    the fold that holds the smallest share of their classes so far, of equals to the smallest fold. So groups
    of one size and class each are divided to within one: in every class, and in all.

    Args:
        groups: the group of every sample.
        labels: (samples, classes) of 0 and 1.

    Returns:
        (samples,) int64.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), labels.shape[1]))
    np.add.at(counts, group_of, labels)
    sizes = np.bincount(group_of, minlength=len(names))
    share = counts / np.maximum(counts.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.lexsort((counts[order].argmax(axis=1), -sizes[order]))]
    held = np.zeros((folds, labels.shape[1]))
    totals = np.zeros(folds, np.int64)
    fold_of = np.empty(len(names), np.int64)
    for group in order:
        # Rounded, so that equal shares are equal in spite of the order in which they were summed.
        chosen = np.lexsort((totals, np.round(held @ share[group], 9)))[0]
        fold_of[group] = chosen
        held[chosen] += counts[group]
        totals[chosen] += sizes[group]
    result: Array = fold_of[group_of]
    return result
