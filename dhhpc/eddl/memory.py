"""The memory plan: blocks with lifetimes are laid into one arena so that a step allocates nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Shape

# A cache line, and the widest vector.
ALIGNMENT = 64


@dataclass(eq=False)
class Block:
    """A piece of the arena.

    Attributes:
        size: in bytes.
        first, last: the times, both included, between which its content must survive.
        offset: from the arena's start, in bytes, once placed.
    """

    size: int
    first: float
    last: float
    offset: int = 0


@dataclass
class Slot:
    """A typed view of a block."""

    block: Block
    shape: Shape
    dtype: Any = np.float32

    def view(self, arena: Array) -> Array:
        count = int(np.prod(self.shape))
        size = count * np.dtype(self.dtype).itemsize
        return arena[self.block.offset : self.block.offset + size].view(self.dtype).reshape(self.shape)


def place(blocks: list[Block]) -> int:
    """Give every block an offset such that no two that live at one time overlap.

    Returns the arena's size in bytes.

    Largest first, each into the smallest gap between the blocks that live beside it and are placed already
    (Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020, "greedy by size").
    """
    placed: list[Block] = []
    total = 0
    for block in sorted(blocks, key=lambda block: (-block.size, block.first)):
        size = aligned(block.size)
        neighbours = sorted(
            (other for other in placed if other.first <= block.last and block.first <= other.last),
            key=lambda other: other.offset,
        )
        best, best_gap, end = None, 0, 0
        for other in neighbours:
            gap = other.offset - end
            if gap >= size and (best is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, other.offset + aligned(other.size))
        block.offset = end if best is None else best
        placed.append(block)
        total = max(total, block.offset + size)
    return total


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
