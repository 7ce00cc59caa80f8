"""The beginning of a set of shards, for what is to be tried on a few samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dhhpc.data.shards import ShardSet

Array = np.ndarray[Any, Any]


class Excerpt(ShardSet):
    """The first samples of some splits of `whole`, which reads and keeps them as it does for all.

    Args:
        counts: samples of each split, at most; none of a split that is not named.
    """

    def __init__(self, whole: ShardSet, counts: Mapping[str, int]) -> None:
        self.whole, self.counts = whole, counts
        self.folder, self.index = whole.folder, whole.index

    def count(self, split: str) -> int:
        return min(self.counts.get(split, 0), self.whole.count(split))

    @contextlib.contextmanager
    def sample(self, split: str, index: int) -> Iterator[tuple[Array, Array, Array | None]]:
        if not 0 <= index < self.count(split):
            raise IndexError(f"sample {index} of split {split}, which has {self.count(split)}")
        with self.whole.sample(split, index) as stored:
            yield stored

    def identifiers(self, split: str) -> list[str]:
        return self.whole.identifiers(split)[: self.count(split)]

    def groups(self, split: str) -> list[str]:
        return self.whole.groups(split)[: self.count(split)]

    def labels(self, split: str) -> Array:
        return self.whole.labels(split)[: self.count(split)]

    def cached_bytes(self, split: str, samples: int) -> int:
        return self.whole.cached_bytes(split, samples)

    def close(self) -> None:
        self.whole.close()
