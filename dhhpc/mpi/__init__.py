"""The world of ranks, averaging over it, and how work is dealt to it. Knows arrays, not networks."""

from dhhpc.mpi.averaging import average
from dhhpc.mpi.cores import cores_per_rank, pin_to_cores
from dhhpc.mpi.failure import failed_alike, failing_together
from dhhpc.mpi.launch import launch
from dhhpc.mpi.workload import share
from dhhpc.mpi.world import Pending, World, check_world, connect

__all__ = [
    "Pending",
    "World",
    "average",
    "check_world",
    "connect",
    "cores_per_rank",
    "failed_alike",
    "failing_together",
    "launch",
    "pin_to_cores",
    "share",
]
