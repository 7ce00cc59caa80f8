"""The world of ranks, averaging over it, and how work is dealt to it. Knows arrays, not networks."""

from dhhpc.mpi.averaging import average
from dhhpc.mpi.workload import share
from dhhpc.mpi.world import World, check_world, connect

__all__ = ["World", "average", "check_world", "connect", "share"]
