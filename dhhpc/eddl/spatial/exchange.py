"""The exchange of rows between ranks, forward, and of their gradients back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dhhpc.eddl.graph import Array, Shape

Range = tuple[int, int]


class Ranks(Protocol):
    """What a decomposed network needs of the ranks; `dhhpc.mpi.World` is one."""

    rank: int
    size: int

    def exchange(self, outgoing: Mapping[int, Array], incoming: Mapping[int, Array]) -> None:
        """Send and receive contiguous arrays, by rank."""

    def allreduce_sum(self, array: Array) -> None:
        """Replace an array by its sum over the ranks, the same bits on each."""

    def allgather_object(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order."""


class RowExchange:
    """How each rank gets the rows it needs of an array that is cut over the ranks, however many ranks hold
    them, and how what it makes of them (a gradient) returns to be added up by their owners.

    Args:
        ranks: this rank and the others.
        cuts: where each rank's rows begin, see `rows.cuts`.
        needs: the rows (start, stop) that each rank needs.

    Attributes:
        incoming: by rank, the rows that it sends, counted from the first that this rank needs.
    """

    def __init__(self, ranks: Ranks, cuts: Sequence[int], needs: Sequence[Range]) -> None:
        self.ranks = ranks
        owned = [(cuts[rank], cuts[rank + 1]) for rank in range(ranks.size)]
        mine, wanted = owned[ranks.rank], needs[ranks.rank]
        others = [rank for rank in range(ranks.size) if rank != ranks.rank]
        self.outgoing = {rank: rows for rank in others if (rows := common(mine, needs[rank], mine[0]))}
        self.incoming = {rank: rows for rank in others if (rows := common(owned[rank], wanted, wanted[0]))}
        # What this rank needs of its own, counted from its first row and from the first it needs.
        self.own = common(mine, wanted, mine[0]) or slice(0, 0)
        self.kept = common(mine, wanted, wanted[0]) or slice(0, 0)

    def received_shapes(self, batch: int, shape: Shape) -> list[Shape]:
        """Of the arrays that arrive for samples of `shape`, in the order of `incoming`."""
        return [(batch, shape[0], rows.stop - rows.start, *shape[2:]) for rows in self.incoming.values()]

    def fetch(self, x: Array, received: Sequence[Array]) -> None:
        """Send rows of x (N,C,rows,...) to the ranks that need them, and receive theirs."""
        outgoing = {rank: np.ascontiguousarray(x[:, :, rows]) for rank, rows in self.outgoing.items()}
        self.ranks.exchange(outgoing, dict(zip(self.incoming, received, strict=True)))

    def assemble(self, x: Array, received: Sequence[Array], out: Array) -> None:
        """out (N,C,needed rows,...) = this rank's own rows, between those received."""
        out[:, :, self.kept] = x[:, :, self.own]
        for rows, array in zip(self.incoming.values(), received, strict=True):
            out[:, :, rows] = array

    def give_back(self, grad: Array, grad_x: Array) -> None:
        """The reverse: grad_x = what all ranks have in `grad` for this rank's rows, added in rank order."""
        outgoing = {rank: np.ascontiguousarray(grad[:, :, rows]) for rank, rows in self.incoming.items()}
        incoming = {
            rank: np.empty(grad_x[:, :, rows].shape, grad_x.dtype) for rank, rows in self.outgoing.items()
        }
        self.ranks.exchange(outgoing, incoming)
        grad_x[:, :, : self.own.start] = 0
        grad_x[:, :, self.own.stop :] = 0
        grad_x[:, :, self.own] = grad[:, :, self.kept]
        for rank, rows in self.outgoing.items():
            grad_x[:, :, rows] += incoming[rank]


def common(one: Range, other: Range, origin: int) -> slice | None:
    """The rows of both, counted from `origin`; None if there are none."""
    start, stop = max(one[0], other[0]), min(one[1], other[1])
    return slice(start - origin, stop - origin) if start < stop else None
