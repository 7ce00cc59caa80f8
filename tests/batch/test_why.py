"""`dhhpc jobs why`, `logs --follow` and `cancel` on a real SLURM of four virtual nodes, and on local jobs.

A time limit is noticed after up to half a minute: that job is submitted before the others, and looked at
last.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, Site, explain, find_job, read_site, scheduler_for, submit_job
from dhhpc.batch.job_log import last_words
from dhhpc.batch.jobs import JobStatus
from dhhpc.batch.virtual_cluster import VirtualCluster

SLURM = scheduler_for("slurm")
SLEEP = "import time; print('begun', flush=True); time.sleep(90)"


def dhhpc(*arguments: object, code: int = 0, **environment: str) -> str:
    command = [sys.executable, "-m", "dhhpc", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def start(cluster: VirtualCluster, tmp_path: Path, request_of) -> Callable[..., JobRecord]:
    """Submits Python code as dhhpc, with more options for sbatch."""

    def submit_code(code: str, *options: str, **changes: object) -> JobRecord:
        folder = tmp_path / f"folder-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "dhhpc.py").write_text(code)
        site = read_site("virtual-cluster").model_copy(update={"options": list(options)})
        values = {"folder": str(folder), "arguments": ("train", "/e.yml"), "threads": 1}
        return submit_job(request_of(**values | changes), site)

    return submit_code


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def begun(job: JobRecord) -> int:
    """How often its log says that it has."""
    log = Path(job.log)
    return log.read_text().count("begun\n") if log.exists() else 0


def state_of(job: JobRecord) -> str:
    return SLURM.status(job).state


@pytest.mark.slurm
def test_why_a_job_is_pending_or_has_failed(start, cluster: VirtualCluster) -> None:
    limited = start(SLEEP, "--nodelist=node3")
    on_node4 = start(SLEEP, "--nodelist=node4", "--no-requeue", ranks_per_node=2)
    again = start(SLEEP, "--nodelist=node3", name="again")
    greedy = start("block = bytearray(300 * 2**20); import time; time.sleep(60)", "--mem=100M")
    wait_for(lambda: all(state_of(job) == "RUNNING" for job in (limited, on_node4, again)))
    wait_for(lambda: begun(again) == 1)
    # The limit of a running job counts in minutes; its end may be set to the second.
    cluster.run("scontrol", "update", f"jobid={limited.id}", "EndTime=now+1")
    cluster.kill_node("node4")
    # As slurmctld finds by itself when the node does not answer for a while.
    cluster.run("scontrol", "update", "nodename=node4", "state=down", "reason=lost")
    failing = (
        "import os; assert os.environ['SLURM_PROCID'] == '0', 'no such shard'; import time; time.sleep(9)"
    )
    failed = start(failing, nodes=2)
    held = start("pass", "--hold")
    waiting = start("pass", "--nodelist=node3", ranks_per_node=2)
    assert SLURM.wait(failed, timeout=60) == JobStatus("FAILED", 1)
    child = start("pass", f"--dependency=afterok:{failed.id}", name="child")
    orphan = start("pass", f"--dependency=afterok:{failed.id}", "--kill-on-invalid-dep=yes")
    later = start("pass", f"--dependency=afterany:{again.id}")

    (found,) = explain(failed)
    assert (found.state, found.cause, found.exit_code) == ("FAILED", "exit code", 1)
    assert (found.error, found.rank) == ("AssertionError: no such shard", 1)
    assert found.host in ("node1", "node2")
    assert found.next == (
        "dhhpc submit train /e.yml --site virtual-cluster --nodes 2 --partition main --time 00:01:00 --resume"
    )
    wait_for(lambda: SLURM.status(held).reason == "JobHeldUser")
    (found,) = explain(held)
    assert (found.cause, found.reason) == ("pending", "JobHeldUser")
    assert found.mend == f"release it with `scontrol release {held.id}`"
    wait_for(lambda: SLURM.status(waiting).reason in ("Resources", "Priority"))
    (found,) = explain(waiting)
    assert found.cause == "pending"
    assert "fewer nodes or a shorter --time" in found.mend
    wait_for(lambda: SLURM.status(child).reason == "DependencyNeverSatisfied")
    (found,) = explain(child)
    assert f"job {failed.id} job has not ended as it should" in found.summary
    assert found.next == f"dhhpc jobs cancel {child.id}"
    wait_for(lambda: state_of(orphan) == "CANCELLED")
    (found,) = explain(orphan)
    assert (found.cause, found.next) == ("parent", f"dhhpc jobs why {failed.id}")
    wait_for(lambda: SLURM.status(later).reason == "Dependency")
    (found,) = explain(later)
    assert found.cause == "pending"
    assert f"job {again.id} again is not over" in found.summary
    listed = dhhpc("jobs", "list")
    assert "child (DependencyNeverSatisfied)" in listed

    SLURM.wait(greedy, timeout=60)
    (found,) = explain(greedy)
    assert found.cause == "memory"
    assert "100 MB allowed) on node" in found.summary
    # SLURM has forgotten it: the log tells as much.
    (found,) = explain(replace(greedy, id="4000000"))
    assert (found.state, found.cause, found.source) == ("OUT_OF_MEMORY", "memory", "log")
    assert found.summary.startswith(
        "its scheduler has forgotten it; going by its log alone, it took more memory"
    )

    # What a job writes before and after it is queued again stands in one log.
    cluster.run("scontrol", "requeue", again.id)
    wait_for(lambda: begun(again) == 2)
    assert SLURM.status(again).restarts == 1
    listed = dhhpc("jobs", "list")
    assert "again (queued again once)" in listed, listed
    assert "it has been queued again once" in explain(again)[0].summary
    SLURM.cancel(again)
    assert SLURM.wait(again, timeout=30).state == "CANCELLED"
    (found,) = explain(again)
    assert found.cause == "cancelled"

    assert SLURM.wait(limited, timeout=60).state == "TIMEOUT"
    (found,) = explain(limited)
    assert (found.cause, found.summary) == ("time limit", "it ran into its time limit of 00:01:00")
    assert last_words(Path(limited.log).read_text()).cause == "time limit"
    assert SLURM.wait(on_node4, timeout=90).state == "NODE_FAIL"
    shown = dhhpc("jobs", "why", on_node4.id)
    assert shown.startswith(f"job {on_node4.id} job: NODE_FAIL\n  a node of it failed: it ran on node4\n")
    assert "  what helps: nothing of yours to mend; --resume goes on from the last checkpoint\n" in shown
    cluster.start_node("node4")
    wait_for(lambda: "node4 idle" in cluster.run("sinfo", "--noheader", "--Node", "--format=%N %T"))


@pytest.mark.slurm
def test_an_array_is_followed_and_one_task_cancelled(start) -> None:
    code = (
        "import os, sys, time\n"
        "task = os.environ['SLURM_ARRAY_TASK_ID']\n"
        "for step in range(3): print('step', step, flush=True); time.sleep(0.2)\n"
        "while task == '2': time.sleep(0.1)\n"
        "sys.exit(3 if task == '1' else 0)\n"
    )
    job = start(code, tasks=4, at_once=3)
    command = [sys.executable, "-m", "dhhpc", "jobs", "logs", job.id, "-f"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(
        lambda: (
            [task.state for task in SLURM.status(job).tasks].count("RUNNING") == 1 and job.logs[3].exists()
        )
    )
    wait_for(lambda: SLURM.status(job).tasks[3].finished)
    assert following.poll() is None
    dhhpc("jobs", "cancel", job.id, "--task", 2)
    wait_for(lambda: SLURM.status(job).finished)
    output, errors = following.communicate(timeout=60)
    for task in range(4):
        lines = [line for line in output.splitlines() if line.startswith(f"task {task}: step")]
        assert lines == [f"task {task}: step {step}" for step in range(3)]
    assert following.returncode == 0, errors
    assert f"job {job.id} is over: FAILED (3); `dhhpc jobs why {job.id}` tells why" in errors
    fates = json.loads(dhhpc("jobs", "why", job.id, "--json"))["fates"]
    assert [(fate["tasks"], fate["cause"]) for fate in fates] == [
        ([0, 3], "completed"),
        ([1], "exit code"),
        ([2], "cancelled"),
    ]
    assert dhhpc("jobs", "logs", job.id, "--task", 1, "--tail", 2).splitlines()[0] == "step 2"
    assert f"job {job.id}_2: is over already" in dhhpc("jobs", "cancel", job.id, "--task", 2, code=1)


def test_local_jobs_are_explained_and_followed(tmp_path: Path, request_of) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/bash\necho begin; sleep 1; echo 'OSError: disk full' >&2; echo bye; exit 1\n")
    program.chmod(0o755)
    site = Site(name="here", scheduler="local", python=str(program))
    job = submit_job(request_of(), site)
    assert dhhpc("jobs", "logs", job.id, "--follow") == "begin\nOSError: disk full\nbye\n"
    shown = dhhpc("jobs", "why", job.id)
    assert shown.startswith(
        f"job {job.id} job: FAILED\n"
        "  it failed with exit code 1: a failure that its last error line tells\n"
        "  the log says: OSError: disk full\n"
        "  what helps: mend what the last error line names\n"
        f"  log: {job.log}\n"
    )
    assert dhhpc("jobs", "logs", job.id, "--tail", 1) == "bye\n"
    program.write_text("#!/bin/bash\necho begin; exec sleep 60\n")
    job = submit_job(request_of(), site)
    following = subprocess.Popen(
        [sys.executable, "-m", "dhhpc", "jobs", "logs", job.id, "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert following.stdout is not None
    assert following.stdout.readline() == "begin\n"
    following.send_signal(signal.SIGINT)
    assert f"job {job.id} goes on" in following.communicate(timeout=30)[1]
    assert following.returncode == 130
    (found,) = explain(job)
    assert (found.cause, found.next) == ("running", f"dhhpc jobs logs {job.id} --follow")
    os.kill(json.loads((Path(job.folder) / "process.json").read_text())["process"], 15)
    scheduler_for("local").wait(job, timeout=30)
    (found,) = explain(find_job(job.id))
    assert found.cause == "cancelled"
