"""MPI: whether two ranks form one world and add up a vector."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from dhhpc.errors import DhhpcError
from dhhpc.findings import Finding, fail, ok
from dhhpc.mpi.launch import environment_for, mpiexec
from dhhpc.mpi.launcher import detect_launcher

TIMEOUT = 60.0
MEGABYTES = 16
# A process of its own: an MPI that cannot start ends the process that tries.
PROGRAM = f"""
import json, time
import numpy as np
from dhhpc.mpi import connect
world = connect()
from mpi4py import MPI
vector = np.full({MEGABYTES} * 2**18, world.rank + 1, np.float32)
world.barrier()
started = time.perf_counter()
world.allreduce_sum(vector)
seconds = time.perf_counter() - started
right = bool((vector == sum(range(1, world.size + 1))).all())
if world.rank == 0:
    library = " ".join(MPI.Get_library_version().replace(chr(0), "").splitlines()[0].split())
    print(json.dumps([world.size, right, seconds, library]), flush=True)
"""


@dataclass(frozen=True)
class RankTest:
    """What became of two ranks.

    Attributes:
        library: how the MPI calls itself; None if no rank came so far.
        seconds: that the sum of a vector of 16 MB over both took.
        problem: why it failed, in a line; empty if it did not.
    """

    library: str | None = None
    seconds: float = 0.0
    problem: str = ""
    mend: str = ""


def two_ranks() -> RankTest:
    """Start two ranks that add up a vector, as `dhhpc train --ranks 2` would start them."""
    launcher = detect_launcher(os.environ)
    if launcher.ranks > 1:
        mend = "run dhhpc doctor once, outside of srun and mpiexec"
        return RankTest(problem=f"this is one of {launcher.ranks} ranks of {launcher.name}", mend=mend)
    try:
        command = [*mpiexec(2), sys.executable, "-c", PROGRAM]
    except DhhpcError as error:
        return RankTest(problem=str(error).removeprefix("--ranks 2: "))
    try:
        finished = subprocess.run(
            command,
            env=environment_for(2, os.environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        mend = "is a firewall or a strange host name (`hostname -f`) in the way?"
        return RankTest(problem=f"two ranks under {command[0]} do not meet within {TIMEOUT:g} s", mend=mend)
    answers = [line for line in finished.stdout.splitlines() if line.startswith("[")]
    if finished.returncode != 0 or len(answers) != 1:
        said = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
        last = said[-1].removeprefix("dhhpc.errors.DhhpcError: ") if said else "no output"
        mend = f"mpi4py must be built for the MPI of {command[0]}: `pip install --no-binary mpi4py mpi4py`"
        return RankTest(problem=f"two ranks under {command[0]} fail: {last}", mend=mend)
    size, right, seconds, library = json.loads(answers[0])
    if size != 2 or not right:
        return RankTest(library, seconds, f"{size} ranks, and their sum is {'right' if right else 'wrong'}")
    return RankTest(library, seconds)


def mpi(tested: RankTest | None) -> Finding:
    """The MPI library and the test of two ranks; None where it was not wanted."""
    if tested is None:
        found = importlib.util.find_spec("mpi4py") is not None
        text = f"mpi4py is {'installed' if found else 'missing'}; no ranks were started"
        return Finding("ok" if found else "warn", "MPI", text, "" if found else 'pip install "dhhpc[mpi]"')
    if tested.problem:
        return fail("MPI", tested.problem, tested.mend)
    speed = MEGABYTES / 1024 / tested.seconds
    return ok("MPI", f"{tested.library}; 2 ranks add up {MEGABYTES} MB at {speed:.1f} GB/s")
