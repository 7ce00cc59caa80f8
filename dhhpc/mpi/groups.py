"""Groups of ranks that are near each other: by default those that share a node's memory."""

from __future__ import annotations

from dataclasses import dataclass

from dhhpc.mpi.world import World


@dataclass(frozen=True)
class Levels:
    """The two levels that this rank belongs to.

    Attributes:
        group: the ranks near this one, and itself.
        leaders: the first ranks of all groups; None on the other ranks.
    """

    group: World
    leaders: World | None


def levels_of(world: World, ranks_per_group: int | None = None) -> Levels:
    """The ranks of each node as a group, or so many ranks with neighbouring numbers. All ranks call this."""
    communicator = world.communicator
    if communicator is None:
        return Levels(world, world)
    from mpi4py import MPI

    if ranks_per_group is None:
        near = communicator.Split_type(MPI.COMM_TYPE_SHARED, world.rank)
    else:
        near = communicator.Split(world.rank // ranks_per_group, world.rank)
    group = World(near, world.launcher, world)
    first = communicator.Split(0 if group.rank == 0 else MPI.UNDEFINED, world.rank)
    return Levels(group, World(first, world.launcher, world) if group.rank == 0 else None)
