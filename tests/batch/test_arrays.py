"""Series as job arrays: states of tasks by hand, whole series on a real SLURM and in the background."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dhhpc.batch import JobRecord, find_job, read_site, read_statuses, scheduler_for, submit_job
from dhhpc.batch.jobs import JobStatus, status_of_array
from dhhpc.batch.request import fit_request
from dhhpc.batch.script import quote_file_pattern, render_script
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.errors import DhhpcError
from tests import synthetic

SLURM = scheduler_for("slurm")
CLUSTER = read_site("virtual-cluster")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 12, "validation": 4})
    return synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", epochs=1)


def dhhpc(*arguments: object, code: int = 0) -> str:
    """What `dhhpc` prints, in the environment of the test's cluster."""
    command = [sys.executable, "-m", "dhhpc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def submitted(experiment: Path, *options: object) -> JobRecord:
    return find_job(json.loads(dhhpc("submit", "train", experiment, "--json", *options))["id"])


def logs_of(job: JobRecord) -> str:
    return "\n".join(path.read_text() for path in job.logs if path.exists())


def summary(experiment: Path) -> dict[str, Any]:
    return json.loads((experiment.parent / "run" / "series.json").read_text())


@pytest.mark.parametrize(
    ("states", "whole", "finished"),
    [
        ("COMPLETED COMPLETED", "COMPLETED", True),
        ("COMPLETED PENDING PENDING", "PENDING", False),
        ("PENDING RUNNING FAILED", "RUNNING", False),
        ("COMPLETED TIMEOUT FAILED CANCELLED", "FAILED", True),
        ("COMPLETED CANCELLED UNKNOWN", "CANCELLED", True),
        ("COMPLETED UNKNOWN", "UNKNOWN", True),
    ],
)
def test_an_array_as_a_whole(states: str, whole: str, finished: bool) -> None:
    tasks = [JobStatus(state) for state in states.split()]
    status = status_of_array(tasks)
    assert (status.state, status.finished, status.tasks) == (whole, finished, tuple(tasks))


def test_the_script_of_an_array(request_of, tmp_path: Path) -> None:
    arguments = ("train", "/e.yml", "--seeds=5", "--resume")
    wish = request_of(arguments=arguments, tasks=5, at_once=2, kind="train")
    text = render_script(fit_request(wish, CLUSTER), CLUSTER, Path("/100%/job.log"))
    assert "#SBATCH --array=0-4%2\n#SBATCH --output=/100%%/job-%a.log\n" in text
    assert ' -m dhhpc train /e.yml --seeds=5 --resume --member "$SLURM_ARRAY_TASK_ID" || code' in text
    assert quote_file_pattern("/100%/job.log") == "/100%%/job.log"
    all_at_once = render_script(fit_request(request_of(tasks=5), CLUSTER), CLUSTER, tmp_path / "job.log")
    assert "#SBATCH --array=0-4\n" in all_at_once
    local = read_site("local")
    text = render_script(fit_request(request_of(tasks=5), local), local, tmp_path / "job.log")
    assert "ARRAY" not in text
    with pytest.raises(DhhpcError, match="--at-once 2: site local runs the members of a series one after"):
        fit_request(request_of(tasks=5, at_once=2), local)
    with pytest.raises(DhhpcError, match="--at-once 2: this is one job, no array"):
        fit_request(request_of(at_once=2), CLUSTER)


def test_a_series_in_the_background(experiment: Path, home: Path) -> None:
    """One job that trains the members one after another, on two ranks each."""
    job = submitted(experiment, "--seeds", 2, "--ranks-per-node", 2)
    assert scheduler_for("local").wait(job, timeout=120) == JobStatus("COMPLETED", 0), logs_of(job)
    assert (job.tasks, summary(experiment)["missing"]) == (None, [])
    assert [row["ranks"] for row in summary(experiment)["members"]] == [2, 2]
    assert "2 of 2 members finished" in dhhpc("jobs", "logs", job.id)
    assert "holds an earlier series; continue it with --resume" in dhhpc(
        "submit", "train", experiment, "--seeds", 2, code=1
    )
    assert len(list((home / "state" / "dhhpc" / "jobs").iterdir())) == 1


@pytest.mark.slurm
def test_a_series_is_one_array_with_a_summary_at_its_end(
    experiment: Path, cluster: VirtualCluster, accounts, tmp_path: Path
) -> None:
    options = ("--site", "virtual-cluster", "--nodes", 1, "--time", 5, "--seeds", 5)
    job = submitted(experiment, *options, "--at-once", 2)
    assert job.tasks == 5
    assert "holds an earlier series" in dhhpc("submit", "train", experiment, *options, code=1)
    status = SLURM.wait(job, timeout=120)
    assert status == JobStatus("COMPLETED", 0, (JobStatus("COMPLETED", 0),) * 5), logs_of(job)
    found = summary(experiment)
    assert found["missing"] == []
    assert [row["ranks"] for row in found["members"]] == [1] * 5
    assert set(found["metrics"]["validation"]["dice"]["values"]) == {f"seed-{seed}" for seed in range(3, 8)}
    rows = accounts([job.id], "State,Start,End", 5)
    assert sorted(rows) == [f"{job.id}_{task}" for task in range(5)]
    assert {state for state, _, _ in rows.values()} == {"COMPLETED"}
    # Two ran at the same time, and never more.
    beginnings = [start for _, start, _ in rows.values()]
    running = [sum(start <= now < end for _, start, end in rows.values()) for now in beginnings]
    assert max(running) == 2, rows
    for task, path in enumerate(job.logs):
        assert f"training into {tmp_path}/run/seed-{3 + task}" in path.read_text()
    (row,) = json.loads(dhhpc("jobs", "list", "--json"))
    assert [task["state"] for task in row["tasks"]] == ["COMPLETED"] * 5
    assert "(5 COMPLETED)" in dhhpc("jobs", "list")
    everything = dhhpc("jobs", "logs", job.id)
    headings = [line for line in everything.splitlines() if line.startswith("==")]
    assert headings == [f"== task {task}" for task in range(5)]
    assert dhhpc("jobs", "logs", job.id, "--task", 1) == job.logs[1].read_text()
    assert "has the tasks 0 to 4" in dhhpc("jobs", "logs", job.id, "--task", 5, code=1)


@pytest.mark.slurm
def test_a_requeued_task_goes_on_and_what_is_missing_is_told(
    experiment: Path, cluster: VirtualCluster, tmp_path: Path
) -> None:
    """Seed 4 cannot be trained, as a file lies in its place; seed 3 is requeued while it runs."""
    experiment.write_text(experiment.read_text().replace("epochs: 1", "epochs: 30"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "seed-4").write_text("in the way")
    job = submitted(experiment, "--site", "virtual-cluster", "--time", 5, "--seeds", 2)
    member = tmp_path / "run" / "seed-3"
    end = time.monotonic() + 60
    while not list(member.glob("checkpoints/*.json")):
        assert time.monotonic() < end, logs_of(job)
        time.sleep(0.02)
    cluster.run("scontrol", "requeue", f"{job.id}_0")
    status = SLURM.wait(job, timeout=120)
    assert status.tasks == (JobStatus("COMPLETED", 0), JobStatus("FAILED", 1)), logs_of(job)
    assert (status.state, status.exit_code) == ("FAILED", 1)
    events = [json.loads(line)["event"] for line in (member / "events.jsonl").read_text().splitlines()]
    assert "resume" in events
    assert len(json.loads((member / "run.json").read_text())["history"]) == 30
    assert summary(experiment)["missing"] == ["seed-4"]
    shown = dhhpc("runs", "show", tmp_path / "run")
    assert "1 of 2 members finished" in shown
    assert "missing: seed-4 (not started)" in shown
    assert "(1 COMPLETED, 1 FAILED; queued again once)" in dhhpc("jobs", "list")


@pytest.mark.slurm
def test_an_array_is_cancelled_as_a_whole(cluster: VirtualCluster, request_of, tmp_path: Path) -> None:
    (tmp_path / "dhhpc.py").write_text("import time; print('on', flush=True); time.sleep(60)")
    job = submit_job(request_of(tasks=3, at_once=1), CLUSTER)
    end = time.monotonic() + 40
    while not job.logs[0].exists() or "on" not in job.logs[0].read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    (status,) = read_statuses([job])
    assert [task.state for task in status.tasks] == ["RUNNING", "PENDING", "PENDING"]
    assert (status.state, status.exit_code) == ("RUNNING", None)
    assert "(1 RUNNING, 2 PENDING)" in dhhpc("jobs", "list")
    dhhpc("jobs", "cancel", job.id)
    status = SLURM.wait(job, timeout=20)
    assert [task.state for task in status.tasks] == ["CANCELLED"] * 3
    assert "is over already" in dhhpc("jobs", "cancel", job.id, code=1)
