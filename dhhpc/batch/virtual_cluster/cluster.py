"""A real SLURM of several nodes on one machine: munged, slurmctld and a slurmd a node, all in one folder.

It needs the programs of SLURM and MUNGE (slurm-wlm and munge on Debian) but nothing of an installed cluster:
it has keys, sockets and ports of its own. The daemons are children of the starting process and end with it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from dhhpc.batch import processes
from dhhpc.batch.virtual_cluster import accounting as accounts
from dhhpc.batch.virtual_cluster.configuration import write_configuration
from dhhpc.batch.virtual_cluster.daemons import SEARCH_PATH, STOP_SECONDS, Daemons
from dhhpc.errors import DhhpcError

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "setpriv")
# A UNIX socket's path is limited to 107 bytes (unix(7)); this is what slurmd adds below the folder at most.
LONGEST_FOLDER = 70
# Names the folder in the environment of the daemons.
MARK = "DHHPC_VIRTUAL_CLUSTER"


def missing_programs() -> list[str]:
    """The programs that a virtual cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


class VirtualCluster:
    """A SLURM cluster of virtual nodes node1, node2, ... in one folder; a context manager.

    Partitions: main (an hour at most), short (a minute at most) and urgent, whose jobs take nodes from those
    of the others, as in `site-configs/virtual-cluster.yml`.
    A job that takes more memory than it asked for is killed.

    Args:
        folder: where all its files go, made if missing; its path must be short. A new temporary folder by
            default, which is removed at the end.
        nodes: how many nodes.
        cores: how many cores each node declares; they may be more than the machine has.
        accounting: with slurmdbd and a database, so that `sacct` and `sacctmgr` work.
    """

    def __init__(
        self, folder: Path | None = None, nodes: int = 4, cores: int = 2, accounting: bool = False
    ) -> None:
        self.temporary = folder is None
        self.folder = (
            folder.absolute() if folder is not None else Path(tempfile.mkdtemp(prefix="dhhpc-slurm-"))
        )
        self.nodes = nodes
        self.cores = cores
        self.accounting = accounting
        self.daemons = Daemons(self.folder, self.command_environment() | {MARK: str(self.folder)})

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which SLURM's commands talk to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> VirtualCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Boot the daemons and wait until all nodes are idle.

        Raises:
            DhhpcError: a program is missing, or a daemon does not come up; names its log.
        """
        check_programs(self.accounting)
        if len(os.fsencode(self.folder)) > LONGEST_FOLDER:
            raise DhhpcError(f"{self.folder}: too long a path for UNIX sockets; choose a shorter folder")
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        # mkdtemp makes it 0700, but the sockets in it must be reachable for jobs of the same machine.
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(exist_ok=True)
        self.write_key()
        write_configuration(self.folder, self.node_names(), self.cores, self.accounting)
        self.daemons.start("munged", "munged", *self.munge_options())
        self.daemons.wait_until("munged", (self.folder / "munge.socket").exists)
        if self.accounting:
            accounts.start_accounting(self.folder, self.daemons, self.run)
        self.daemons.start("slurmctld", "slurmctld", "-D", "-i")
        for node in self.node_names():
            self.start_node(node)
        self.daemons.wait_until("slurmctld", lambda: self.idle_nodes() == self.nodes)

    def start_node(self, node: str) -> None:
        self.daemons.start(f"slurmd-{node}", "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd, as when it fails; its jobs' processes stay."""
        self.daemons.kill(f"slurmd-{node}")

    def stop(self) -> None:
        """End all jobs, then the daemons, and wait for them; removes the folder if it was a temporary one."""
        if self.daemons.alive("slurmctld"):
            self.end_jobs()
        self.daemons.stop()
        end_remains(self.folder)
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def end_jobs(self) -> None:
        """Cancel every job and wait until no step of one is left on the nodes."""
        self.run("scancel", "--full", f"--user={getpass.getuser()}")
        processes.wait_until(
            lambda: not self.run("squeue", "--noheader").strip() and not self.step_sockets(), STOP_SECONDS
        )

    def step_sockets(self) -> list[Path]:
        """The sockets of running slurmstepds, each in its node's spool folder as NODE_JOB.STEP."""
        return [
            path
            for node in self.node_names()
            if self.daemons.alive(f"slurmd-{node}")
            for path in (self.folder / f"spool-{node}").glob(f"{node}_*.*")
        ]

    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    def munge_options(self) -> list[str]:
        folder = self.folder
        return [
            "--foreground",
            "--num-threads=2",
            f"--key-file={folder / 'munge' / 'key'}",
            f"--seed-file={folder / 'munge' / 'seed'}",
            f"--socket={folder / 'munge.socket'}",
            f"--pid-file={folder / 'munged.pid'}",
            f"--log-file={folder / 'munged.log'}",
        ]

    def write_key(self) -> None:
        # munged refuses keys that others may read, and a pid file or socket where others may write.
        private = self.folder / "munge"
        private.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(private / "key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(1024))

    def idle_nodes(self) -> int:
        states = self.run("sinfo", "--noheader", "--partition=main", "--Node", "--format=%T").split()
        return sum(state == "idle" for state in states)

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing while slurmctld does not answer."""
        return run_command(command, self.environment["SLURM_CONF"])

    def command_environment(self) -> dict[str, str]:
        return command_environment(self.environment["SLURM_CONF"])


def command_environment(configuration: str) -> dict[str, str]:
    """The variables under which SLURM's commands talk to the cluster of a slurm.conf."""
    # Those of an outer job or cluster would change what the commands do.
    outer = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    return kept | {"PATH": SEARCH_PATH, "SLURM_CONF": configuration}


def run_command(command: Sequence[str], configuration: str) -> str:
    """What a command of SLURM prints at the cluster of a slurm.conf; nothing while that does not answer."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        finished = subprocess.run(
            command,
            env=command_environment(configuration),
            capture_output=True,
            text=True,
            check=False,
            timeout=STOP_SECONDS,
        )
        return finished.stdout
    return ""


def check_programs(accounting: bool) -> None:
    """Raise DhhpcError when this machine lacks a program; names the packages to install."""
    missing = missing_programs()
    if missing:
        raise DhhpcError(
            f"virtual cluster: {', '.join(missing)} not found; install slurm-wlm and munge, or run jobs "
            f"in the background of this machine with --site local"
        )
    missing = accounts.missing_programs()
    if accounting and missing:
        raise DhhpcError(
            f"--accounting: {', '.join(missing)} not found; install {accounts.PACKAGES}, or start the "
            f"cluster with --no-accounting"
        )


def end_remains(folder: Path) -> None:
    """Kill what is left of the cluster in `folder`: daemons, and jobs that nobody watches over any more.

    A shell that has the cluster's SLURM_CONF only wants to use it, and is no part of it.
    """
    configuration = str(folder / "slurm.conf")

    def belongs(environment: dict[str, str]) -> bool:
        of_a_job = "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == configuration
        return of_a_job or environment.get(MARK) == str(folder)

    for process in processes.processes_with(belongs):
        processes.kill(process)
