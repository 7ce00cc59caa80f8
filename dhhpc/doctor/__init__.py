"""Whether a machine is fit for dhhpc: what it has, what is missing, and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dhhpc.doctor.accelerator import accelerators
from dhhpc.doctor.kernels import kernel_cache
from dhhpc.doctor.machine import memory, processor, threads
from dhhpc.doctor.ranks import RankTest, mpi, two_ranks
from dhhpc.doctor.scheduler import slurm
from dhhpc.doctor.storage import clock, file_locks, inodes, space
from dhhpc.findings import Finding

__all__ = ["examine"]


def examine(path: Path, start_ranks: bool = True) -> Iterator[Finding]:
    """Look at this machine, one finding after the other.

    Args:
        path: a folder of the file system that runs will be on; it is written to, and left as it was.
        start_ranks: start two MPI ranks, which takes a second or two.
    """
    yield processor()
    yield threads()
    yield memory()
    yield kernel_cache()
    yield from accelerators()
    tested: RankTest | None = None
    if start_ranks:
        tested = two_ranks()
    yield mpi(tested)
    yield from slurm(tested.library if tested else None)
    yield space(path)
    yield inodes(path)
    yield file_locks(path)
    yield clock(path)
