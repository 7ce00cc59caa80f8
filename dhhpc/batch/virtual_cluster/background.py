"""One virtual cluster a user and machine that outlives the shell which started it.

A process of its own, the keeper, holds the cluster until it is told to end. A file in the user's state
folder names it: by that, every command finds the cluster. Where the keeper was killed, or the machine started
anew, the file has outlived it; whoever comes next clears away what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from dhhpc.batch import processes
from dhhpc.batch.jobs import state_folder
from dhhpc.batch.virtual_cluster import accounting as accounts
from dhhpc.batch.virtual_cluster.cluster import VirtualCluster, check_programs, end_remains, run_command
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_error, write_json

KEEP = f"from {__name__} import main; main()"
# Until jobs, nodes and daemons have ended, in seconds.
STOP_SECONDS = 90.0


@dataclass(frozen=True)
class BackgroundCluster:
    """A virtual cluster that runs in the background.

    Attributes:
        process, started: its keeper, and when that started (clock ticks since boot).
        folder: where all its files lie.
        nodes: how many it has.
        accounting: whether `sacct` works.
        daemons: their processes by name; none while it is starting.
    """

    process: int
    started: int
    folder: str
    nodes: int
    accounting: bool
    daemons: dict[str, int]

    @property
    def configuration(self) -> str:
        """What SLURM's commands need to find it, as the variable SLURM_CONF."""
        return str(Path(self.folder) / "slurm.conf")

    @property
    def alive(self) -> bool:
        return processes.start_time(self.process) == self.started

    def ended_daemons(self) -> list[str]:
        """The daemons that have ended though nobody stopped the cluster."""
        return [name for name, process in self.daemons.items() if processes.start_time(process) is None]

    def node_states(self) -> dict[str, str]:
        """Each node's state in SLURM's words; none while slurmctld does not answer."""
        output = self._run("sinfo", "--noheader", "--partition=main", "--Node", "--format=%N %T")
        return dict(line.split(maxsplit=1) for line in output.splitlines())

    def job_states(self) -> dict[str, int]:
        """How many jobs are in which state; those that are over not."""
        return dict(Counter(self._run("squeue", "--noheader", "--array", "--format=%T").split()))

    def _run(self, *command: str) -> str:
        return run_command(command, self.configuration)


def state_file() -> Path:
    # Home folders are shared by machines, processes are not.
    return state_folder() / f"virtual-cluster-{socket.gethostname()}.json"


def read_state() -> BackgroundCluster | None:
    path = state_file()
    if not path.exists():
        return None
    try:
        return BackgroundCluster(**read_json(path))
    except TypeError:
        raise DhhpcError(f"{path}: does not describe a virtual cluster; remove it") from None


def find_cluster() -> BackgroundCluster | None:
    """The user's cluster on this machine, if it is running."""
    cluster = read_state()
    return cluster if cluster is not None and cluster.alive and cluster.daemons else None


def start_cluster(nodes: int = 4, accounting: bool | None = None) -> tuple[BackgroundCluster, bool]:
    """Start the user's cluster on this machine, and wait until it is ready.

    Args:
        nodes: how many it shall have.
        accounting: with `sacct`; None for where the machine has the programs.

    Returns:
        It, and False where it was running already.

    Raises:
        DhhpcError: a program is missing, a daemon does not come up, or another kind of cluster is running.
    """
    with locked():
        cluster = clear_stale()
        if cluster is not None:
            check_alike(cluster, nodes, accounting)
            return cluster, False
        if accounting is None:
            accounting = not accounts.missing_programs()
        check_programs(accounting)
        start_keeper(nodes, accounting)
        cluster = find_cluster()
    if cluster is None:
        raise DhhpcError("virtual cluster: has ended as soon as it was ready; start it again")
    return cluster, True


def check_alike(cluster: BackgroundCluster, nodes: int, accounting: bool | None) -> None:
    wished = [f"--nodes {nodes}"] if nodes != cluster.nodes else []
    if accounting not in (None, cluster.accounting):
        wished.append("--accounting" if accounting else "--no-accounting")
    if wished:
        kind = f"{cluster.nodes} nodes {'with' if cluster.accounting else 'without'} accounting"
        raise DhhpcError(f"{' '.join(wished)}: a cluster of {kind} is running; `dhhpc cluster stop` it first")


def stop_cluster() -> BackgroundCluster:
    """Cancel the jobs of the user's cluster, end it, and remove all its files.

    Raises:
        DhhpcError: none is running.
    """
    with locked():
        cluster = clear_stale()
        if cluster is None:
            raise DhhpcError(
                f"no virtual cluster of yours is running on {socket.gethostname()}; nothing to stop"
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(cluster.process, signal.SIGTERM)
        if not processes.wait_until(lambda: not cluster.alive, STOP_SECONDS):
            processes.kill(cluster.process)
            processes.wait_until(lambda: not cluster.alive, STOP_SECONDS)
        clear_stale()
    return cluster


def clear_stale() -> BackgroundCluster | None:
    """The cluster that is running, or None once nothing is left of one whose keeper is no more."""
    cluster = read_state()
    if cluster is None or cluster.alive:
        return cluster
    end_remains(Path(cluster.folder))
    shutil.rmtree(cluster.folder, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    return None


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One start or stop at a time; leaves no file, nor a folder that was not there."""
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            folder.rmdir()


def start_keeper(nodes: int, accounting: bool) -> None:
    """Start the process that holds the cluster; returns when the cluster is ready.

    Raises:
        DhhpcError: it does not come up; what the keeper says.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEP, str(nodes), str(int(accounting))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        start_new_session=True,
    )
    assert keeper.stdout is not None
    try:
        # The keeper closes its output once the cluster is ready.
        said = keeper.stdout.read().strip().splitlines()
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    finally:
        keeper.stdout.close()
    if said:
        keeper.wait()
        clear_stale()
        raise DhhpcError(said[-1].removeprefix("dhhpc: "))


def keep(nodes: int, accounting: bool) -> None:
    """Hold a cluster until SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> None:
        # What cleans up is not to be cut short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = VirtualCluster(nodes=nodes, accounting=accounting)
    started = processes.start_time(os.getpid())
    assert started is not None  # this process runs
    state = BackgroundCluster(os.getpid(), started, str(cluster.folder), nodes, accounting, {})
    write_json(state_file(), asdict(state))
    try:
        with cluster:
            daemons = {name: daemon.pid for name, daemon in cluster.daemons.running.items()}
            write_json(state_file(), asdict(state) | {"daemons": daemons})
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            while True:
                signal.pause()
    finally:
        state_file().unlink(missing_ok=True)


def main() -> None:
    """Take NODES ACCOUNTING (0 or 1) from the command line."""
    nodes, accounting = map(int, sys.argv[1:])
    try:
        keep(nodes, bool(accounting))
    except DhhpcError as error:
        print(f"dhhpc: {error}", flush=True)
