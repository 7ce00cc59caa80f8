"""A real SLURM of several nodes on one machine: munged, slurmctld and a slurmd a node, all in one folder.

Tests boot it, and `python -m dhhpc.batch.virtual_cluster` does so for people who want to try job scripts. It
needs the programs of SLURM and MUNGE (slurm-wlm and munge on Debian) but nothing of an installed cluster: it
has keys, sockets and ports of its own. The daemons are children of the starting process and end with it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from dhhpc.errors import DhhpcError

# Debian's daemons lie in sbin, which a user's PATH may lack.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "setpriv")
START_SECONDS = 30.0
STOP_SECONDS = 15.0
# A UNIX socket's path is limited to 107 bytes (unix(7)); this is what slurmd adds below the folder at most.
LONGEST_FOLDER = 70

# SLURM's numbers of jobs end at 0x03ff0000 (slurm.conf(5), MaxJobId).
LARGEST_FIRST_JOB = 50_000_000

CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# linuxproc follows children that leave their process group; nothing outlives its job.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Nodes may declare more cores than the machine has.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=2
CompleteWait=0
FirstJobId={first_job}
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""


def missing_programs() -> list[str]:
    """The programs that a virtual cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


class VirtualCluster:
    """A SLURM cluster of virtual nodes node1, node2, ... in one folder; a context manager.

    Partitions: main (an hour at most) and short (a minute at most), as in `site-configs/virtual-cluster.yml`.

    Args:
        folder: where all its files go, made if missing; its path must be short. A new temporary folder by
            default, which is removed at the end.
        nodes: how many nodes.
        cores: how many cores each node declares; they may be more than the machine has.
    """

    def __init__(self, folder: Path | None = None, nodes: int = 2, cores: int = 2) -> None:
        self.temporary = folder is None
        self.folder = (
            folder.absolute() if folder is not None else Path(tempfile.mkdtemp(prefix="dhhpc-slurm-"))
        )
        self.nodes = nodes
        self.cores = cores
        self.daemons: list[tuple[str, subprocess.Popen[bytes]]] = []

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
        missing = missing_programs()
        if missing:
            raise DhhpcError(f"virtual cluster: {', '.join(missing)} not found; install slurm-wlm and munge")
        if len(os.fsencode(self.folder)) > LONGEST_FOLDER:
            raise DhhpcError(f"{self.folder}: too long a path for UNIX sockets; choose a shorter folder")
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        # mkdtemp makes it 0700, but the sockets in it must be reachable for jobs of the same machine.
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(exist_ok=True)
        self.write_key()
        self.write_configuration()
        self.start_daemon("munged", *self.munge_options())
        self.wait_until("munged", (self.folder / "munge.socket").exists)
        self.start_daemon("slurmctld", "-D", "-i")
        for node in self.node_names():
            self.start_daemon("slurmd", "-D", "-N", node)
        self.wait_until("slurmctld", lambda: self.idle_nodes() == self.nodes)

    def stop(self) -> None:
        """End all jobs, then the daemons, and wait for them; removes the folder if it was a temporary one."""
        if any(name == "slurmctld" and daemon.poll() is None for name, daemon in self.daemons):
            self.end_jobs()
        for _, daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def end_jobs(self) -> None:
        """Cancel every job and wait until no step of one is left on the nodes."""
        self.run("scancel", "--full", f"--user={getpass.getuser()}")
        end = time.monotonic() + STOP_SECONDS
        while (self.run("squeue", "--noheader").strip() or self.step_sockets()) and time.monotonic() < end:
            time.sleep(0.05)

    def step_sockets(self) -> list[Path]:
        """The sockets of running slurmstepds, each in its node's spool folder as NODE_JOB.STEP."""
        return [
            path for node in self.node_names() for path in (self.folder / f"spool-{node}").glob(f"{node}_*.*")
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

    def write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        controller_port, *node_ports = free_ports(1 + self.nodes)
        lines = [
            CONFIGURATION.format(
                host=host,
                folder=self.folder,
                user=getpass.getuser(),
                controller_port=controller_port,
                # MPI libraries name what they leave on a node by the job: no two clusters number alike.
                first_job=1 + int(time.time()) % LARGEST_FIRST_JOB,
            )
        ]
        for node, port in zip(self.node_names(), node_ports, strict=True):
            (self.folder / f"spool-{node}").mkdir(exist_ok=True)
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cores}\n"
            )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP\n")
        lines.append("PartitionName=short Nodes=ALL MaxTime=1 State=UP\n")
        (self.folder / "slurm.conf").write_text("".join(lines))

    def start_daemon(self, name: str, *options: str) -> None:
        program = shutil.which(name, path=SEARCH_PATH)
        assert program is not None  # missing_programs() has looked
        with open(self.folder / f"{name}.output", "ab") as output:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *options],
                env=self.command_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        self.daemons.append((name, daemon))

    def wait_until(self, name: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            ended = [daemon for daemon, process in self.daemons if process.poll() is not None]
            if ended or time.monotonic() > end:
                self.fail(
                    (*ended, name)[0], "has ended" if ended else f"is not ready after {START_SECONDS:g} s"
                )
            time.sleep(0.05)

    def fail(self, name: str, problem: str) -> None:
        texts = [
            path.read_text(errors="replace")
            for path in (self.folder / f"{name}.log", self.folder / f"{name}.output")
            if path.exists()
        ]
        lines = [line for text in texts for line in text.splitlines() if "error" in line.lower()]
        said = f" ({lines[-1]})" if lines else ""
        raise DhhpcError(f"virtual cluster: {name} {problem}{said}; see the logs in {self.folder}")

    def idle_nodes(self) -> int:
        states = self.run("sinfo", "--noheader", "--partition=main", "--Node", "--format=%T").split()
        return sum(state == "idle" for state in states)

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing while slurmctld does not answer."""
        environment = self.command_environment()
        with contextlib.suppress(subprocess.TimeoutExpired):
            finished = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=STOP_SECONDS
            )
            return finished.stdout
        return ""

    def command_environment(self) -> dict[str, str]:
        # Variables of an outer job or cluster would change what the commands do.
        outer = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        return kept | {"PATH": SEARCH_PATH} | self.environment


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main(arguments: Sequence[str]) -> int:
    """Run a cluster until Ctrl-C: `python -m dhhpc.batch.virtual_cluster [NODES]`."""
    nodes = int(arguments[0]) if arguments and arguments[0].isdigit() else 2
    try:
        with VirtualCluster(nodes=nodes) as cluster:
            print(f"a SLURM of {nodes} nodes is running; it stops with Ctrl-C. In another shell:")
            for name, value in cluster.environment.items():
                print(f"  export {name}={value}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    except DhhpcError as error:
        print(f"dhhpc: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
