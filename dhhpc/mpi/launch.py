"""`--ranks N`: the same command again, as N ranks under the machine's mpiexec."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from dhhpc.errors import DhhpcError
from dhhpc.mpi.launcher import EXPECTED_RANKS, detect_launcher, in_slurm_step

INSTALL = 'install one with `pip install "dhhpc[mpi]"`'


def launch(ranks: int, arguments: Sequence[str], ranks_per_node: int | None = None) -> int:
    """Run `dhhpc` with `arguments` on `ranks` ranks of this machine (of this SLURM allocation inside a job).

    SIGTERM and SIGUSR1 are passed on to the ranks, which may then write a checkpoint before they end.

    Args:
        ranks: how many, at least 1.
        arguments: the command line after the program's name; `--ranks` and `--ranks-per-node` in it are
            dropped.
        ranks_per_node: so many on each node of the allocation; None for what mpiexec finds best.

    Returns:
        The exit code of the ranks: 128 plus the signal's number when one ended them.

    Raises:
        DhhpcError: no MPI is installed, or this process is itself a rank already.
    """
    if ranks < 1:
        raise DhhpcError(f"--ranks {ranks}: give a number of ranks of at least 1")
    launcher = detect_launcher(os.environ)
    if launcher.ranks > 1:
        raise DhhpcError(
            f"--ranks {ranks}: this is already one of {launcher.ranks} ranks that {launcher.name} started "
            f"({launcher.source}={launcher.ranks}); drop --ranks"
        )
    # A single rank needs no MPI.
    starter = mpiexec(ranks, ranks_per_node) if ranks > 1 else []
    words = without_option(without_option(arguments, "--ranks"), "--ranks-per-node")
    command = [*starter, sys.executable, "-m", "dhhpc", *words]
    process = subprocess.Popen(command, env=environment_for(ranks, os.environ))

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # Ctrl-C reaches mpiexec by itself: the terminal signals the whole process group.
    handlers = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    handlers[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def mpiexec(ranks: int, ranks_per_node: int | None = None) -> list[str]:
    """The mpiexec command for `ranks` ranks: the one beside this Python (a pip MPI) before the one on PATH.

    Args:
        ranks_per_node: as in `launch`.

    Raises:
        DhhpcError: no mpiexec, or no mpi4py.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if path is None:
        raise DhhpcError(f"--ranks {ranks}: no mpiexec beside {sys.executable} or on PATH; {INSTALL}")
    if importlib.util.find_spec("mpi4py") is None:
        raise DhhpcError(f"--ranks {ranks}: {path} is there but mpi4py is not; run `pip install mpi4py`")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    options = [] if ranks_per_node is None else ["-ppn", str(ranks_per_node)]
    if "Open MPI" in version or "OpenRTE" in version or "prte" in version.lower():
        # It otherwise refuses more ranks than cores, pins each rank to a core, and refuses root (containers).
        options = ["--oversubscribe", "--bind-to", "none"]
        if ranks_per_node is not None:
            options += ["--map-by", f"ppr:{ranks_per_node}:node"]
        if os.geteuid() == 0:
            options.append("--allow-run-as-root")
    return [path, *options, "-n", str(ranks)]


def environment_for(ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the ranks, without the wiring of an outer launcher, which MPI would follow."""
    inner = {name: value for name, value in environment.items() if not name.startswith(("PMI_", "PMIX_"))}
    if in_slurm_step(environment):
        # A step cannot start another one in its own resources: keep to this machine.
        inner = {name: value for name, value in inner.items() if not name.startswith("SLURM_STEP")}
        inner |= {"HYDRA_LAUNCHER": "fork", "HYDRA_RMK": "user"}
    inner[EXPECTED_RANKS] = str(ranks)
    return inner


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """`arguments` without `option VALUE` and `option=VALUE`."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
