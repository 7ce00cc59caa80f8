"""The MPI library: loaded and started when a launcher started several ranks, and only then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dhhpc.errors import DhhpcError
from dhhpc.mpi.launcher import Launcher

NETWORK = "MPIR_CVAR_CH4_NETMOD"
# Time enough, in seconds, for a process that makes shared memory to map it.
SETTLED = 10.0


def start_mpi(launcher: Launcher) -> Any:
    """The module `mpi4py.MPI`, with MPI started in it.

    Raises:
        DhhpcError: mpi4py or its MPI library is missing.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise DhhpcError(
            f"{launcher.name} started {launcher.ranks} ranks but mpi4py cannot be loaded "
            f'({one_line(error)}); install it with `pip install "dhhpc[mpi]"`, or with `pip install mpi4py` '
            f"where the machine has an MPI"
        ) from None
    if not MPI.Is_initialized():
        os.environ.update(network_for(MPI.Get_library_version(), launcher, os.environ))
        if "0" in (os.environ.get("SLURM_LOCALID"), os.environ.get("MPI_LOCALRANKID")):
            remove_left_segments()
        MPI.Init_thread()
    return MPI


def network_for(library: str, launcher: Launcher, environment: Mapping[str, str]) -> dict[str, str]:
    """The variable that has MPICH use libfabric where srun starts its ranks, if MPICH has it.

    MPICH on UCX tells its address to SLURM's PMI together with what lies behind it in memory, 4 KB in lines
    of up to 1.1 KB. SLURM cuts a line at 1 KB (slurm, mpi/pmi2/pmi1.c, MAX_READLINE), so that where that
    memory does not compress well, ranks now and then do not start or wait for each other for ever. The
    addresses of libfabric take a few bytes.

    Args:
        library: what MPI_Get_library_version says.
    """
    device = next((line for line in library.splitlines() if line.startswith("MPICH Device:")), "")
    networks = device.partition("ch4:")[2].replace(",", " ").split()
    cut = launcher.name == "srun" and networks[:1] == ["ucx"]
    return {NETWORK: "ofi"} if cut and "ofi" in networks and NETWORK not in environment else {}


def remove_left_segments(folder: Path = Path("/dev/shm"), settled: float = SETTLED) -> None:
    """Remove MPICH's shared memory that killed ranks of this user left on this machine.

    Its name comes from the job's number: a job that was killed and queued again meets what it left itself on
    the same node, and may wait for ever (MPICH 5.0.2). What is younger than `settled` seconds, or mapped by a
    process, stays.
    """
    left = [path for path in folder.glob("mpich_shm_*") if is_settled(path, settled)]
    if not left:
        return
    mapped = "".join(memory_maps())
    for path in left:
        if str(path) not in mapped:
            path.unlink(missing_ok=True)


def is_settled(path: Path, settled: float) -> bool:
    """Whether a file of this user was made at least so many seconds ago."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_uid == os.getuid() and time.time() - status.st_mtime >= settled


def memory_maps() -> Iterator[str]:
    """What this user's processes have mapped (proc(5), /proc/pid/maps)."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                yield (process / "maps").read_text(errors="replace")
        except OSError:  # it has ended
            continue


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
