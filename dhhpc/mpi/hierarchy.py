"""Sums in which the ranks of a node combine in shared memory, and one rank of each node talks to others."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi.groups import levels_of
from dhhpc.mpi.stepwise import Line, Steps, Stepwise
from dhhpc.mpi.world import Pending, World

Array = np.ndarray[Any, Any]

# Of a piece of an array, in bytes, and how many pieces each rank's share of the window holds.
PIECE, SLOTS = 2**20, 8
# Arrays of fewer bytes go through MPI's own all-reduce: what they cost is the time of a message.
SMALL = 2**12
# Of a cache line, in bytes.
CACHE_LINE = 64
# Where MPI libraries on Linux make shared memory; writing to more than there is kills a process (SIGBUS).
SHARED = "/dev/shm"


class Room:
    """The wait for a place in the window, as if for a request."""

    def __init__(self, tenant: Stepwise | None) -> None:
        self.tenant = tenant

    def Test(self) -> bool:  # noqa: N802 - as that of an mpi4py request
        return self.tenant is None or self.tenant.done

    def Wait(self) -> None:  # noqa: N802
        """A tenant is ahead in the line, so it has left by the time that anybody waits for this."""
        assert self.Test()


class Pieces(Pending):
    """A sum that is on its way in pieces, one behind the other."""

    def __init__(self, last: Stepwise) -> None:
        self.last = last

    def arrived(self) -> bool:
        return self.last.arrived()

    def wait(self) -> None:
        self.last.wait()


class Hierarchy:
    """Each rank puts a piece of its array into a window of shared memory; each adds up a part of the piece
    over the ranks of its node, in their order; the first ranks of the nodes all-reduce what comes out; all
    read it.

    The pieces of an array, and arrays one behind the other, are in different steps at the same time. Nobody
    waits between the steps, so that all of it may go on during a backward pass, as far as ranks look after it
    there (`Pending.arrived`).

    What goes from node to node counts as messages and bytes of the ranks that send it, what is put into the
    window as `World.bytes_in_node`.

    Args:
        world: the whole one; all ranks make this together.
        ranks_per_node: so many ranks with neighbouring numbers combine; unless given those that share memory.

    Attributes:
        nodes: how many there are.

    Raises:
        DhhpcError: ranks that are to combine share no memory, or the machine has too little of it; on all
            ranks alike.
    """

    def __init__(self, world: World, ranks_per_node: int | None = None, piece: int = PIECE) -> None:
        from mpi4py import MPI

        self.world, self.piece = world, piece
        levels = levels_of(world, ranks_per_node)
        self._node = levels.group.communicator
        self._leaders = None if levels.leaders is None else levels.leaders.communicator
        needed = SLOTS * piece * levels.group.size
        found = world.allgather_object(
            (levels.group.rank, levels.group.local_size == levels.group.size, free_memory() >= needed)
        )
        if not all(shares for _, shares, _ in found):
            raise DhhpcError(
                f"parallel.ranks_per_node: {ranks_per_node} ranks with neighbouring numbers do not share the "
                f"memory of one node; leave it out to combine those that do"
            )
        if not all(has_room for *_, has_room in found):
            raise DhhpcError(
                f"parallel.hierarchy: {SHARED} of a node has less than {SLOTS * piece >> 20} MB free for "
                f"each rank; enlarge it, or set hierarchy to flat"
            )
        self.nodes = sum(rank == 0 for rank, *_ in found)
        # A communicator for each kind of step, see `Line`.
        self._filled, self._added, self._ready, self._read = (self._node.Dup() for _ in range(4))
        apart = MPI.Info.Create()
        apart.Set("alloc_shared_noncontig", "true")  # the memory of each rank lies near it
        self._window = MPI.Win.Allocate_shared(SLOTS * piece, 1, apart, self._node)
        apart.Free()
        self._window.Lock_all(MPI.MODE_NOCHECK)
        memory: list[Any] = [self._window.Shared_query(rank)[0] for rank in range(levels.group.size)]
        self._shares = [np.frombuffer(each, np.uint8).reshape(SLOTS, piece) for each in memory]
        self._line = Line(world, "sum_by_nodes")
        self._tenants: list[Stepwise | None] = [None] * SLOTS
        self._next = 0

    def takes(self, array: Array) -> bool:
        """Whether an array is large enough."""
        return array.nbytes >= SMALL

    def begin(self, array: Array) -> Pending:
        """Begin to replace `array`, C-contiguous and not empty, by its sum over the ranks; see
        `World.begin_sum`."""
        flat = array.reshape(-1)
        count = self.piece // array.itemsize
        for start in range(0, flat.size, count):
            slot, self._next = self._next, (self._next + 1) % SLOTS
            piece = flat[start : start + count]
            last = self._line.begin(self._steps(piece, slot, self._tenants[slot]), piece.nbytes, None)
            self._tenants[slot] = last
        return Pieces(last)

    def _steps(self, piece: Array, slot: int, tenant: Stepwise | None) -> Steps:
        """What a rank has written others read only after both have called Sync, with a barrier in between
        (MPI 4.1, section 12.7, on shared memory windows)."""
        from mpi4py import MPI

        yield Room(tenant)
        places = [share[slot][: piece.nbytes].view(piece.dtype) for share in self._shares]
        total, rank = places[0], self._node.Get_rank()
        places[rank][:] = piece
        self.world.bytes_in_node += piece.nbytes
        self._window.Sync()
        yield self._filled.Ibarrier()
        self._window.Sync()
        # Parts are whole cache lines, but the last.
        part = -(-piece.nbytes // (CACHE_LINE * len(places))) * CACHE_LINE // piece.itemsize
        mine = slice(rank * part, (rank + 1) * part)
        for place in places[1:]:
            total[mine] += place[mine]
        self._window.Sync()
        yield self._added.Ibarrier()
        self._window.Sync()
        if self.nodes > 1:
            if self._leaders is not None:
                self.world.messages += 1
                self.world.bytes_sent += piece.nbytes
                yield self._leaders.Iallreduce(MPI.IN_PLACE, total, op=MPI.SUM)
                self._window.Sync()
            yield self._ready.Ibarrier()
            self._window.Sync()
        piece[:] = total
        self._window.Sync()
        yield self._read.Ibarrier()

    def free(self) -> None:
        """Give the shared memory back. All ranks call this, with nothing on its way."""
        self._shares.clear()
        self._window.Unlock_all()
        self._window.Free()
        for communicator in (self._filled, self._added, self._ready, self._read, self._node, self._leaders):
            if communicator is not None:
                communicator.Free()


def free_memory() -> float:
    """Bytes that can still be shared; infinite where that is not known."""
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return float("inf")
    return status.f_bavail * status.f_frsize
