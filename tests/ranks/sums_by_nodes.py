"""Sums by nodes, checked on every rank: `mpiexec -n 4 python sums_by_nodes.py`."""

import os
from pathlib import Path

import numpy as np
import pytest

from dhhpc.errors import DhhpcError
from dhhpc.mpi import Hierarchy, World, connect

# In pieces of 8 KB there are more of them than room for, and the last one is odd.
PIECE, SIZE = 2**13, 40_001


def drawn(world: World, number: int, dtype) -> np.ndarray:
    return np.random.default_rng([number, world.rank]).normal(size=SIZE).astype(dtype)


def windows(least: int) -> int:
    """Mappings of shared memory without a name, which ends with its processes, of so many bytes at least."""
    found = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(address, 16) for address in line.split()[0].split("-"))
        found += last - first >= least and " rw-s " in line and "/dev/shm/" in line and "(deleted)" in line
    return found


def check(world: World, ranks_per_node: int | None) -> None:
    before = windows(8 * PIECE)
    world.hierarchy = hierarchy = Hierarchy(world, ranks_per_node, PIECE)
    ranks_per_node = ranks_per_node or world.size
    alone = ranks_per_node == 1 or (ranks_per_node == 3 and world.rank == 3)  # who shares with nobody
    assert windows(8 * PIECE) == before + (not alone)
    assert hierarchy.nodes == -(-world.size // ranks_per_node)
    leads = hierarchy.nodes > 1 and world.rank % ranks_per_node == 0
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        exact = sum(
            np.random.default_rng([0, rank]).normal(size=SIZE).astype(dtype).astype(np.float64)
            for rank in range(world.size)
        )
        results = []
        for _ in range(2):
            array = drawn(world, 0, dtype)
            counts = world.messages, world.bytes_sent, world.bytes_in_node
            world.allreduce_sum(array)
            pieces = -(-array.nbytes // PIECE)
            sent = (pieces, array.nbytes) if leads else (0, 0)
            assert world.messages - counts[0] == sent[0]
            assert world.bytes_sent - counts[1] == sent[1]
            assert world.bytes_in_node - counts[2] == array.nbytes
            results.append(array.tobytes())
            assert np.abs(array - exact).max() <= 4 * tolerance * np.abs(exact).max()
        assert len(set(world.allgather_object(results[0]))) == 1
        assert results[0] == results[1]
    # Several on their way, found out about at times of each rank's own, and in two dimensions.
    arrays = [drawn(world, number, np.float32)[1:].reshape(100, -1) for number in range(6)]
    copies = [array.copy() for array in arrays]
    pending = []
    for array in arrays:
        pending.append(world.begin_sum(array))
        for each in pending[: world.rank]:
            each.arrived()
    small = np.ones(3)
    world.allreduce_sum(small)  # MPI's own, in between
    assert small.tolist() == [world.size] * 3
    for each in pending:
        each.wait()
        assert each.arrived()
    for array, copy in zip(arrays, copies, strict=True):
        world.allreduce_sum(copy)
        assert array.tobytes() == copy.tobytes()
    world.hierarchy = None
    hierarchy.free()
    assert windows(8 * PIECE) == before


def refuse_a_lack_of_memory(world: World) -> None:
    """Ten times what is free, on all ranks alike."""
    status = os.statvfs("/dev/shm")
    with pytest.raises(DhhpcError, match=r"parallel\.hierarchy: /dev/shm of a node has less than"):
        Hierarchy(world, None, 10 * (1 + status.f_bavail) * status.f_frsize)


if __name__ == "__main__":
    world = connect()
    for each in (2, 3, 4, 1, None):
        check(world, each)
    refuse_a_lack_of_memory(world)
    print("as expected")
