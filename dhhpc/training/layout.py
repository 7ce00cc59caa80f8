"""Named arrays as one row of bytes, which is cut among ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# Name, NumPy's dtype with its byte order, and shape.
Description = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """One array.

    Attributes:
        start, stop: its bytes in the row.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """Which bytes of the row are whose: the arrays in order, without gaps.

    Attributes:
        entries: by name, in order.
        size: bytes of all.
    """

    def __init__(self, descriptions: list[Description]) -> None:
        self.entries: dict[str, Entry] = {}
        self.size = 0
        for name, code, shape in descriptions:
            dtype = np.dtype(code)
            stop = self.size + dtype.itemsize * prod(shape)
            self.entries[name] = Entry(name, dtype, tuple(shape), self.size, stop)
            self.size = stop

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Layout:
        """That of some arrays."""
        return cls([(name, array.dtype.str, array.shape) for name, array in arrays.items()])

    def describe(self) -> list[Description]:
        """What the constructor takes."""
        return [(entry.name, entry.dtype.str, entry.shape) for entry in self.entries.values()]

    def cut(self, count: int) -> list[int]:
        """Where to cut into `count` shards of the same size, to a number: their edges, with both ends."""
        edges = [self.size * number // count for number in range(count)]
        for entry in self.entries.values():
            size = entry.dtype.itemsize
            edges = [
                edge - (edge - entry.start) % size if entry.start <= edge < entry.stop else edge
                for edge in edges
            ]
        return [*edges, self.size]

    def copy(self, arrays: Mapping[str, Array], start: int, stop: int, out: Array) -> None:
        """Bytes `start` to `stop` of the row into `out` (uint8), from C-contiguous `arrays`."""
        for entry in self.entries.values():
            first, last = max(start, entry.start), min(stop, entry.stop)
            if first < last:
                content = arrays[entry.name].reshape(-1).view(np.uint8)
                out[first - start : last - start] = content[first - entry.start : last - entry.start]

    def views(self, row: Array) -> dict[str, Array]:
        """The arrays in the whole row (uint8), not copied."""
        return {
            entry.name: row[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)
            for entry in self.entries.values()
        }
