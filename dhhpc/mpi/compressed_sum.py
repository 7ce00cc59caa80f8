"""Sums over the ranks of vectors that are sent in compressed form, with a memory of what was left over."""

from __future__ import annotations

from typing import Any

import numpy as np

from dhhpc.mpi.compression import Array, Compression, Half
from dhhpc.mpi.stepwise import Line, Steps
from dhhpc.mpi.world import Pending, World


class CompressedSum:
    """Error feedback: what compression has left over of one vector is added to the next (Seide et al., 2014,
    "1-bit stochastic gradient descent"; Stich et al., 2018, "Sparsified SGD with memory"; Karimireddy et al.,
    2019, "Error feedback fixes SignSGD"). Over all ranks, the sums given so far and what is `unsent` come to
    the sum of all vectors, to float32's rounding.

    Numbers of two bytes are never added up in two bytes. Each rank adds up a share of the vector in float32
    from what all send it, as exactly as they sent it, and sends its sum to all, compressed too; what that
    leaves over goes into its own memory (Tang et al., 2019, "DoubleSqueeze"). As in an all-reduce of MPI's,
    a number leaves a rank about twice, and it counts as one message of the compressed vector's bytes.

    Of the largest numbers all ranks get those of all, each with 8 bytes, and add them up in the order of the
    ranks: fewer bytes than an all-reduce where the share that is sent is below 1/ranks.

    Args:
        world: of several ranks, which all make this together.
        size: of the whole vector.

    Attributes:
        unsent: what this rank has not sent yet, float32; begins with zeros.
    """

    def __init__(self, world: World, size: int, compression: Compression) -> None:
        self.world, self.compression = world, compression
        self.unsent = np.zeros(size, np.float32)
        self._there, self._back = world.communicator.Dup(), world.communicator.Dup()
        self._line = Line(world, "compressed_sum")

    def begin(self, vector: Array, start: int = 0) -> Pending:
        """Begin to replace a piece of the whole vector, which begins at `start`, by its sum over the ranks.

        `vector`, contiguous float32, may change meanwhile; it is written to when the sum arrives. All ranks
        begin the same pieces in the same order, and none again before it has arrived. All get the same bits.
        """
        memory = self.unsent[start : start + vector.size]
        with np.errstate(invalid="ignore", over="ignore"):
            memory += vector
        if isinstance(self.compression, Half):
            share = -(-vector.size // self.world.size)
            size = self.world.size * self.compression.size_of(share)
            return self._line.begin(self._by_shares(vector, memory, share), vector.nbytes, size)
        size = self.compression.size_of(vector.size)
        return self._line.begin(self._by_all(vector, memory, size), vector.nbytes, size)

    def _by_shares(self, vector: Array, memory: Array, share: int) -> Steps:
        """Each rank adds up a part of so many numbers; the last parts may be shorter."""
        compression, ranks = self.compression, range(self.world.size)
        edges = [min(share * rank, vector.size) for rank in range(self.world.size + 1)]
        parts = [slice(edges[rank], edges[rank + 1]) for rank in ranks]
        others = [rank for rank in ranks if rank != self.world.rank]
        outgoing = np.zeros((self.world.size, compression.size_of(share)), np.uint8)
        incoming = np.empty_like(outgoing)
        for rank in others:
            compression.encode(memory[parts[rank]], outgoing[rank])
            compression.add(outgoing[rank], memory[parts[rank]], -1)
        yield self._there.Ialltoall(outgoing, incoming)
        total = memory[parts[self.world.rank]]
        for rank in others:
            compression.add(incoming[rank], total)
        mine = outgoing[self.world.rank]
        compression.encode(total, mine)
        compression.add(mine, total, -1)
        yield self._back.Iallgather(mine, incoming)
        vector.fill(0)
        for rank in ranks:
            compression.add(incoming[rank], vector[parts[rank]])

    def _by_all(self, vector: Array, memory: Array, size: int) -> Steps:
        """Each rank adds up all of it."""
        mine: Any = np.empty(size, np.uint8)
        gathered = np.empty((self.world.size, size), np.uint8)
        self.compression.encode(memory, mine)
        self.compression.add(mine, memory, -1)
        yield self._there.Iallgather(mine, gathered)
        vector.fill(0)
        for payload in gathered:
            self.compression.add(payload, vector)
