"""How many cores each rank may use."""

from __future__ import annotations

import os

from dhhpc.mpi.world import World


def cores_per_rank(world: World) -> int:
    """The cores that the ranks of this machine may run on, divided by their number; at least 1.

    A launcher may bind each rank to its own cores or let all run everywhere: the union of the affinity masks
    on a machine over the number of its ranks is right for both. All ranks must call this.
    """
    mine = (world.host, world.local_rank, sorted(os.sched_getaffinity(0)))
    masks = [mask for host, _, mask in world.allgather_object(mine) if host == world.host]
    return max(1, len({core for mask in masks for core in mask}) // world.local_size)
