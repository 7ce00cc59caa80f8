"""What MPI takes in the memory of a rank: two ranks of this machine sum something, and look at themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import connect
from dhhpc.mpi.launch import environment_for, mpiexec

RANKS = 2
# Seconds after which an mpiexec that may not be used here, as on some login nodes, is given up.
PATIENCE = 60
# Of the vector that is summed; what MPI holds beside a larger one is counted, not measured.
FLOATS = 2**18


def measured_mpi_bytes() -> int | None:
    """The larger growth of the two ranks, in bytes; None where they cannot be started or do not end."""
    try:
        result = subprocess.run(
            [*mpiexec(RANKS), sys.executable, "-m", "dhhpc.scaling.resources.mpi_memory"],
            env=environment_for(RANKS, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return max(int(line) for line in result.stdout.split())
    except (DhhpcError, OSError, subprocess.SubprocessError, ValueError):
        return None


def resident_bytes() -> int:
    """Of this process: the second number of /proc/self/statm, in pages (proc(5))."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    vector = np.ones(FLOATS, np.float32)
    before = resident_bytes()
    world = connect()
    world.allreduce_sum(vector)
    world.begin_sum(vector).wait()
    grown = world.gather_object(resident_bytes() - before)
    if grown is not None:
        print(*grown)


if __name__ == "__main__":
    main()
