"""Job scripts on a real SLURM of virtual nodes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, read_site, read_statuses, scheduler_for, submit_job
from dhhpc.batch.jobs import JobStatus
from dhhpc.batch.site import Site
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.errors import DhhpcError

pytestmark = pytest.mark.slurm

SLURM = scheduler_for("slurm")
WORLD = """\
import os
os.environ["MPIR_CVAR_CH4_NETMOD"] = "ofi"  # see `network_for`
from mpi4py import MPI
world = MPI.COMM_WORLD.allgather(os.environ["SLURMD_NODENAME"])
if MPI.COMM_WORLD.rank == 0:
    print(world, os.environ["OMP_NUM_THREADS"], os.environ["DHHPC_EXPECTED_RANKS"])
"""


@pytest.fixture
def start(cluster: VirtualCluster, tmp_path: Path, request_of) -> Callable[..., JobRecord]:
    """Submits Python code as dhhpc: `-m dhhpc` finds a module of that name in the job's folder first."""

    def submit_code(code: str, **changes: object) -> JobRecord:
        (tmp_path / "dhhpc.py").write_text(code)
        return submit_job(request_of(**changes), read_site("virtual-cluster"))

    return submit_code


def wait_for_state(job: JobRecord, state: str) -> None:
    end = time.monotonic() + 20
    while (now := SLURM.status(job).state) != state:
        assert time.monotonic() < end, f"{now}: {Path(job.log).read_text()}"
        time.sleep(0.05)


def log_of(job: JobRecord) -> str:
    return Path(job.log).read_text()


def test_two_nodes_are_one_world(start) -> None:
    job = start(WORLD, nodes=2)
    status = SLURM.wait(job, timeout=40)
    assert status == JobStatus("COMPLETED", 0), log_of(job)
    # Which nodes they are is SLURM's choice.
    assert re.fullmatch(r"\['node(\d)', 'node(?!\1)\d'\] 2 2\n", log_of(job))


def test_ranks_share_a_nodes_cores(start) -> None:
    job = start(WORLD, nodes=2, ranks_per_node=2)
    assert SLURM.wait(job, timeout=40) == JobStatus("COMPLETED", 0), log_of(job)
    assert re.fullmatch(r"\['node(\d)', 'node\1', 'node(?!\1)(\d)', 'node\2'\] 1 4\n", log_of(job))


def test_a_failing_exit_code_is_reported(start) -> None:
    job = start("import sys; sys.exit(3)")
    assert SLURM.wait(job, timeout=40) == JobStatus("FAILED", 3)


def test_a_signal_is_reported(start) -> None:
    job = start("import os; os.kill(os.getpid(), 9)")
    assert SLURM.wait(job, timeout=40) == JobStatus("FAILED", 128 + 9)


def test_cancel_reaches_the_ranks(start) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    job = start(code)
    wait_for_state(job, "RUNNING")
    end = time.monotonic() + 20
    while not Path(job.log).exists() or "ready" not in log_of(job):
        assert time.monotonic() < end
        time.sleep(0.05)
    SLURM.cancel(job)
    assert SLURM.wait(job, timeout=20).state == "CANCELLED"
    assert "saved" in log_of(job)
    with pytest.raises(DhhpcError, match="is over already"):
        SLURM.cancel(job)


@pytest.mark.parametrize("name", ["a 'b' \"c\" \\ #d", "$(touch hacked) `e` ;f", "%j é\u00a0%%"])
def test_names_and_options_reach_the_scheduler_literally(
    cluster: VirtualCluster, request_of, tmp_path: Path, name: str
) -> None:
    (tmp_path / "dhhpc.py").write_text("pass")
    site = read_site("virtual-cluster").model_copy(update={"options": [f"--comment={name}"]})
    job = submit_job(request_of(name=name), site)
    shown = cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job.id}", "--format=%j|%k")
    assert shown == f"{name}|{name}\n"
    assert SLURM.wait(job, timeout=40) == JobStatus("COMPLETED", 0)
    assert not list(tmp_path.glob("**/hacked"))


def test_what_slurm_refuses_is_told_in_one_line(cluster: VirtualCluster, request_of, home: Path) -> None:
    site = read_site("virtual-cluster")
    wrong = site.model_copy(update={"partitions": [site.partitions[0].model_copy(update={"name": "night"})]})
    with pytest.raises(DhhpcError, match=r"sbatch: .*[Ii]nvalid partition") as caught:
        submit_job(request_of(), wrong)
    assert "\n" not in str(caught.value)
    assert list((home / "state" / "dhhpc" / "jobs").iterdir()) == []


def test_variables_that_sbatch_puts_before_the_script_are_refused(
    cluster: VirtualCluster, request_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    with pytest.raises(
        DhhpcError, match="SBATCH_PARTITION=short: sbatch puts it before the script's own main"
    ):
        submit_job(request_of(partition="main"), read_site("virtual-cluster"))
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    with pytest.raises(DhhpcError, match="SBATCH_TIMELIMIT=5: sbatch puts it before the script's own value"):
        submit_job(request_of(), read_site("virtual-cluster"))
    monkeypatch.delenv("SBATCH_TIMELIMIT")
    job = submit_job(request_of(arguments=("--version",)), read_site("virtual-cluster"))
    shown = cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job.id}", "--format=%P")
    assert shown.strip() == "short"
    SLURM.wait(job, timeout=40)


def test_a_job_that_slurm_has_forgotten_is_unknown(start) -> None:
    job = start("pass")
    forgotten = JobRecord(**{**job.__dict__, "id": "4000000"})
    assert read_statuses([forgotten, job])[0] == JobStatus("UNKNOWN")
    assert read_statuses([forgotten]) == [JobStatus("UNKNOWN")]
    assert SLURM.wait(job, timeout=40).state == "COMPLETED"


def test_ranks_start_whatever_lies_in_their_memory(cluster: VirtualCluster) -> None:
    """MPICH on UCX sends SLURM what lies behind its address; random bytes there make too long lines."""
    code = (
        "import os; blocks = [os.urandom(size) for size in range(600, 4000) for _ in range(4)]\n"
        "del blocks[::2]\n"
        "from dhhpc.mpi import connect; print('size', connect().size)"
    )
    command = ["srun", "--mpi=pmi2", "--nodes=2", "--ntasks=2", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "size 2\nsize 2\n"), done.stderr


def test_a_rank_that_dies_ends_the_job(cluster: VirtualCluster, request_of, tmp_path: Path) -> None:
    code = "import os, time; os.environ['SLURM_PROCID'] == '1' and os.abort(); time.sleep(100)"
    (tmp_path / "dhhpc.py").write_text(code)
    job = submit_job(
        request_of(nodes=2),
        read_site("virtual-cluster").model_copy(update={"environment": {"SLURM_WAIT": "2"}}),
    )
    assert SLURM.wait(job, timeout=40).state == "FAILED", log_of(job)


def test_worlds_of_one_are_refused(cluster: VirtualCluster) -> None:
    code = "from dhhpc.mpi import connect; print('size', connect().size)"
    command = ["srun", "--mpi=none", "--nodes=2", "--ntasks=2", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "the MPI world has 1 rank but SLURM started 2 tasks (SLURM_NTASKS=2)" in done.stderr
    assert "use `srun --mpi=pmi2` with MPICH" in done.stderr
    assert "size" not in done.stdout


def test_a_launcher_that_does_not_fit_fails_the_job(
    cluster: VirtualCluster, request_of, tmp_path: Path
) -> None:
    site = Site.model_validate(
        read_site("virtual-cluster").model_dump(mode="json") | {"launcher": "srun --mpi=none"}
    )
    (tmp_path / "experiment.yml").write_text("name: tiny\n")
    job = submit_job(request_of(nodes=2, arguments=("train", "experiment.yml")), site)
    assert SLURM.wait(job, timeout=60) == JobStatus("FAILED", 1), log_of(job)
    assert "the MPI world has 1 rank but" in log_of(job)
    assert "DHHPC_EXPECTED_RANKS=2" in log_of(job)
