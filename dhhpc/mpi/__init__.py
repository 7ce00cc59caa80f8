"""The world of ranks, averaging and watching over it, how work is dealt to it. Knows arrays, not networks."""

from dhhpc.mpi.alone import alone_in
from dhhpc.mpi.averaging import average
from dhhpc.mpi.compressed_sum import CompressedSum
from dhhpc.mpi.compression import BFloat16, Compression, Float16, TopK
from dhhpc.mpi.cores import core_list, cores_here, cores_per_rank, pin_to_cores, processor_name
from dhhpc.mpi.failure import TRY_AGAIN, failed_alike, failing_together
from dhhpc.mpi.groups import Levels, levels_of
from dhhpc.mpi.hierarchy import Hierarchy
from dhhpc.mpi.launch import launch
from dhhpc.mpi.launcher import allocated_nodes
from dhhpc.mpi.progress import Progress
from dhhpc.mpi.timeline import Timeline, TraceFile
from dhhpc.mpi.watch import watching
from dhhpc.mpi.workload import parts, share
from dhhpc.mpi.world import Pending, World, check_world, connect

__all__ = [
    "TRY_AGAIN",
    "BFloat16",
    "CompressedSum",
    "Compression",
    "Float16",
    "Hierarchy",
    "Levels",
    "Pending",
    "Progress",
    "Timeline",
    "TopK",
    "TraceFile",
    "World",
    "allocated_nodes",
    "alone_in",
    "average",
    "check_world",
    "connect",
    "core_list",
    "cores_here",
    "cores_per_rank",
    "failed_alike",
    "failing_together",
    "launch",
    "levels_of",
    "parts",
    "pin_to_cores",
    "processor_name",
    "share",
    "watching",
]
