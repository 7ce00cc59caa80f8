"""A real SLURM of several nodes on one machine, for tests and for trying job scripts."""

from dhhpc.batch.virtual_cluster.background import (
    BackgroundCluster,
    find_cluster,
    start_cluster,
    stop_cluster,
)
from dhhpc.batch.virtual_cluster.cluster import VirtualCluster, missing_programs

__all__ = [
    "BackgroundCluster",
    "VirtualCluster",
    "find_cluster",
    "missing_programs",
    "start_cluster",
    "stop_cluster",
]
