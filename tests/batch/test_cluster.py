"""`dhhpc cluster`, with accounting: real daemons in the background, and nothing left of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, explain, find_job, scheduler_for, submit_job
from dhhpc.batch.processes import processes_with, wait_until
from dhhpc.batch.request import JobRequest
from dhhpc.batch.site_layers import read_site
from dhhpc.batch.virtual_cluster import find_cluster, missing_programs, start_cluster, stop_cluster
from dhhpc.batch.virtual_cluster.accounting import PACKAGES
from dhhpc.batch.virtual_cluster.accounting import missing_programs as missing_for_accounting
from dhhpc.errors import DhhpcError

SITE = "virtual-cluster"


def dhhpc(*arguments: str, code: int = 0, **environment: str) -> str:
    command = [sys.executable, "-m", "dhhpc", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.count("\n") == 1
    return done.stderr if code else done.stdout


@pytest.fixture
def stopping(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs of SLURM are there, no variable of another cluster is, and no cluster outlives the test."""
    missing = missing_programs() + missing_for_accounting()
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install slurm-wlm, munge, {PACKAGES}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    yield
    with contextlib.suppress(DhhpcError):  # the test has stopped it
        stop_cluster()


def remains(folder: str) -> list[str]:
    """Command lines of processes that know the folder of a cluster."""
    found = []
    for process in processes_with(lambda variables: folder in "".join(variables.values())):
        line = Path(f"/proc/{process}/cmdline").read_bytes()
        found += [line.decode()] if line else []  # a process that has ended has none
    return found


@pytest.mark.slurm
@pytest.mark.usefixtures("stopping")
def test_a_cluster_with_accounting_from_start_to_stop(tmp_path: Path, home: Path) -> None:
    state = home / "state"
    with pytest.raises(
        DhhpcError, match="no virtual cluster of yours is running here; start one with `dhhpc"
    ):
        submitted(tmp_path, "pass")
    started = dhhpc("cluster", "start", "--nodes", "2", "--accounting")
    cluster = find_cluster()
    assert cluster is not None
    assert started.startswith("a SLURM of 2 virtual nodes with accounting is running\n")
    assert started.endswith(f"\nexport SLURM_CONF={cluster.folder}/slurm.conf\n")
    assert "is running already" in dhhpc("cluster", "start", "--nodes", "2")
    with pytest.raises(DhhpcError, match="--nodes 4: a cluster of 2 nodes with accounting is running"):
        start_cluster(4)
    # Nobody else may look into the accounts' database.
    assert (Path(cluster.folder) / "database").stat().st_mode & 0o077 == 0

    # dhhpc finds it without SLURM_CONF; sacct knows what has become of its jobs, and who cancelled them.
    ended = [submitted(tmp_path, code) for code in ("pass", "import sys; sys.exit(3)")]
    cancelled = submitted(tmp_path, "import time; time.sleep(100)")
    slurm = scheduler_for("slurm", SITE)
    states = [slurm.wait(find_job(job), timeout=60).state for job in ended]
    assert states == ["COMPLETED", "FAILED"]
    assert wait_until(lambda: slurm.status(find_job(cancelled)).state == "RUNNING", 60)
    shown = json.loads(dhhpc("cluster", "status", "--json"))
    assert set(shown["nodes"]) == {"node1", "node2"}
    assert shown["jobs"] == {"RUNNING": 1}
    slurm.cancel(find_job(cancelled))
    slurm.wait(find_job(cancelled), timeout=60)
    environment = os.environ | {"SLURM_CONF": cluster.configuration}
    wait_for_accounts(
        [f"{ended[0]}|COMPLETED|0:0|virtual", f"{ended[1]}|FAILED|3:0|virtual", f"{cancelled}|CANCELLED by"],
        environment,
    )
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert explain(find_job(cancelled))[0].summary == f"it was cancelled by {user}"
    # As when slurmctld has forgotten them.
    known = slurm.read_accounting([*ended, cancelled])  # type: ignore[attr-defined]
    assert [known[job].state for job in (*ended, cancelled)] == ["COMPLETED", "FAILED", "CANCELLED"]
    assert known[ended[1]].exit_code == 3

    last = submitted(tmp_path, "import time; time.sleep(100)")
    assert wait_until(lambda: slurm.status(find_job(last)).state == "RUNNING", 60)
    assert len(remains(cluster.folder)) >= len(cluster.daemons)
    assert "nothing of it is left" in dhhpc("cluster", "stop")
    assert remains(cluster.folder) == []
    assert not Path(cluster.folder).exists()
    assert [path.name for path in (state / "dhhpc").iterdir()] == ["jobs"]
    with pytest.raises(DhhpcError, match="nothing to stop"):
        stop_cluster()
    # What its log tells is all that is left to know.
    (found,) = explain(find_job(last))
    assert (found.source, found.state) == ("log", "CANCELLED")
    assert "no virtual cluster of yours is running here" in found.summary


@pytest.mark.slurm
@pytest.mark.usefixtures("stopping")
def test_what_a_killed_cluster_leaves_is_cleared_away() -> None:
    first, _ = start_cluster(1, accounting=False)
    os.kill(first.daemons["slurmd-node1"], 9)
    assert wait_until(lambda: "slurmd-node1 has ended" in dhhpc("cluster", "status"), 60)
    os.kill(first.process, 9)
    assert wait_until(lambda: find_cluster() is None, 60)
    assert "no virtual cluster is running" in dhhpc("cluster", "status")
    second, fresh = start_cluster(1, accounting=False)
    assert fresh
    assert second.folder != first.folder
    assert not Path(first.folder).exists()
    assert remains(first.folder) == []


def test_a_machine_without_slurm_says_so_in_one_line(tmp_path: Path, home: Path) -> None:
    """Every verb that needs SLURM names the way without it; what is known all the same is told."""
    bare = str(tmp_path / "bin")
    folder = home / "state" / "dhhpc" / "jobs" / "1"
    folder.mkdir(parents=True)
    record = JobRecord(
        "12", "tiny", "far", "slurm", str(folder), str(folder / "job.log"), ["train", "/e.yml"], 1, 1, "now"
    )
    record.write()
    (tmp_path / "e.yml").write_text("name: tiny\n")
    training = ("submit", "train", str(tmp_path / "e.yml"), "--site", SITE, "--time", "5")
    for verb in (("cluster", "start"), training, ("jobs", "cancel", "12"), ("jobs", "logs", "12")):
        assert "--site local" in dhhpc(*verb, code=1, PATH=bare)
    assert "UNREACHABLE" in dhhpc("jobs", "list", PATH=bare)
    (folder / "job.log").write_text(
        "slurmstepd: error: *** JOB 12 ON n7 CANCELLED AT now DUE TO TIME LIMIT ***\n"
    )
    shown = dhhpc("jobs", "why", "12", PATH=bare)
    assert shown.startswith("job 12 tiny: TIMEOUT\n  squeue: not found on PATH: this machine has no SLURM;")
    assert "going by its log alone, it ran into its time limit\n" in shown


def submitted(tmp_path: Path, code: str) -> str:
    """The id of a job that runs Python code as dhhpc."""
    folder = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    (folder / "dhhpc.py").write_text(code)
    request = JobRequest(arguments=("site", "list"), name="job", folder=str(folder), seconds=60)
    return submit_job(request, read_site(SITE)).id


def wait_for_accounts(lines: list[str], environment: dict[str, str]) -> None:
    """Wait until sacct has lines that begin so: slurmctld tells its accounts in batches."""
    jobs = ",".join(line.split("|")[0] for line in lines)
    command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={jobs}"]
    command.append("--format=JobID,State,ExitCode,Account")
    found: list[str] = []

    def all_there() -> bool:
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found[:] = told.stdout.splitlines()
        return all(any(row.startswith(line) for row in found) for line in lines)

    assert wait_until(all_there, 60, poll=0.2), found
