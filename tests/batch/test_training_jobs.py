"""Training as batch jobs, from `dhhpc submit` to the run record: on SLURM, on PBS, and in the background."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dhhpc.batch import JobRecord, find_job, scheduler_for
from dhhpc.batch.jobs import JobStatus
from dhhpc.batch.processes import wait_until
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.data.shards import ShardIndex, record_of, write_index, writing_shard
from dhhpc.mpi.launch import mpiexec

SIZE = 16
DHHPC = [sys.executable, "-m", "dhhpc"]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Twelve noisy squares to segment, and an experiment on them whose run folder is `run`."""
    shard = tmp_path / "shards" / "training-00000.h5"
    shard.parent.mkdir()
    masks = np.zeros((12, SIZE, SIZE), np.uint8)
    masks[:, 4:12, 4:12] = 1
    noise = np.random.default_rng(1).normal(0, 0.3, masks.shape)
    with writing_shard(shard, "float32") as writer:
        images = (masks + noise).astype(np.float32)[:, None]
        writer.extend(images, masks, None, [f"square-{index}" for index in range(len(masks))])
    index = ShardIndex(
        dataset="squares",
        task="segmentation",
        classes=["square"],
        sample_shape=(1, SIZE, SIZE),
        dtype="float32",
        regions=False,
        shards=[record_of(shard, "training", len(masks))],
        pipeline=[],
        pipeline_hash="0" * 64,
        seconds=0.0,
    )
    write_index(shard.parent, index)
    document = {
        "name": "squares",
        "data": {"shards": "shards"},
        "network": {"name": "unet", "channels": [4, 8]},
        "loss": "binary_cross_entropy",
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "batch_size": 3,
        "epochs": 2,
        "output": "run",
    }
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def submit(experiment: Path, *options: str) -> JobRecord:
    """`dhhpc submit train` from another folder than the experiment's."""
    command = [*DHHPC, "submit", "train", str(experiment), "--json", *options]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return find_job(json.loads(done.stdout)["id"])


def record_of_run(experiment: Path) -> dict[str, Any]:
    return json.loads((experiment.parent / "run" / "run.json").read_text())


def finish(job: JobRecord) -> JobStatus:
    status = scheduler_for(job.scheduler).wait(job, timeout=120)
    assert status.state == "COMPLETED", Path(job.log).read_text()
    return status


def cancel_and_resume(experiment: Path, *options: str) -> None:
    """Cancel a long training job once it has written a checkpoint, and let another job go on from there."""
    experiment.write_text(experiment.read_text().replace("epochs: 2", "epochs: 1000"))
    job = submit(experiment, *options)
    scheduler = scheduler_for(job.scheduler)
    written = (experiment.parent / "run").glob
    assert wait_until(lambda: any(written("checkpoints/*")), 120), Path(job.log).read_text()
    scheduler.cancel(job)
    assert scheduler.wait(job, timeout=30).state == "CANCELLED"
    stopped = record_of_run(experiment)
    assert stopped["status"] == "stopped", Path(job.log).read_text()
    epochs = len(stopped["history"])
    assert 1 <= epochs < 1000
    experiment.write_text(experiment.read_text().replace("epochs: 1000", f"epochs: {epochs + 2}"))
    finish(submit(experiment, *options, "--resume"))
    resumed = record_of_run(experiment)
    assert (resumed["status"], resumed["ranks"], len(resumed["history"])) == ("finished", 2, epochs + 2)


@pytest.mark.slurm
def test_training_that_is_preempted_ends_as_it_would_have(
    experiment: Path, cluster: VirtualCluster, tmp_path: Path
) -> None:
    """On two nodes, by `dhhpc submit`; undisturbed, by `sbatch jobs/train.sh`. The nodes of the site have a
    disk of their own, where the shards are read."""
    (disk := experiment.parent / "disk of a node").mkdir()
    experiment.write_text(experiment.read_text().replace("epochs: 2", "epochs: 100000"))
    options = ("--site", "virtual-cluster", "--nodes", "2", "--time", "5", "--set", f"node_local={disk}")
    job = submit(experiment, *options)
    run_folder = tmp_path / "run"
    assert wait_until(lambda: any(run_folder.glob("checkpoints/*.json")), 120), Path(job.log).read_text()
    nodes = cluster.run("squeue", "--noheader", f"--jobs={job.id}", "--format=%N")
    assert re.fullmatch(r"node\[\d[-,]\d\]\n", nodes)
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    everywhere = ("--partition=urgent", "--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=2")
    urgent = cluster.run("sbatch", "--parsable", *everywhere, "--output=/dev/null", f"--wrap={wait}").strip()
    slurm = scheduler_for("slurm")

    def queued_again() -> bool:
        status = slurm.status(job)
        return (status.state, status.restarts) == ("PENDING", 1)

    assert wait_until(queued_again, 60), Path(job.log).read_text()
    assert wait_until(lambda: slurm.status(replace(job, id=urgent)).state == "RUNNING", 60)
    stopped = record_of_run(experiment)
    assert stopped["status"] == "stopped", Path(job.log).read_text()
    why = subprocess.run([*DHHPC, "jobs", "why", job.id], capture_output=True, text=True, check=True).stdout
    assert why.startswith(f"job {job.id} experiment: PENDING ("), why
    assert "it has been queued again once, after preemption" in why
    epochs = len(stopped["history"]) + 2
    experiment.write_text(experiment.read_text().replace("epochs: 100000", f"epochs: {epochs}"))
    (tmp_path / "go").touch()

    assert finish(job).exit_code == 0
    run = record_of_run(experiment)
    assert (run["status"], run["ranks"], run["launcher"]) == ("finished", 2, "srun")
    assert run["slurm_job_id"] == job.id
    assert len(run["history"]) == epochs
    assert (run_folder / "model.onnx").stat().st_size > 0
    learned = parameters(run_folder)
    by_hand = train_by_hand(experiment, cluster, STAGE="NODE_DISK", NODE_DISK=str(disk))
    size = (experiment.parent / "shards" / "training-00000.h5").stat().st_size
    for record in (run, by_hand):
        assert record["experiment"]["data"]["shards"] == str(experiment.parent / "shards")
        nodes_staged = record["staging"]["nodes"]
        assert [Path(node["folder"]).parent for node in nodes_staged] == [disk, disk]
        assert {node["bytes"] for node in nodes_staged} == {size}
        # The virtual nodes are one machine after all: what one has copied the other finds.
        assert sum(node["copied"] for node in nodes_staged) == size
    assert list(disk.iterdir()) == []
    assert by_hand.keys() == run.keys()
    assert (by_hand["status"], by_hand["ranks"], by_hand["launcher"]) == ("finished", 2, "srun")
    undisturbed = parameters(run_folder)
    assert learned.keys() == undisturbed.keys()
    assert all(np.array_equal(learned[name], undisturbed[name]) for name in learned)
    for one, other in zip(run["history"], by_hand["history"], strict=True):
        assert [one[key] for key in ("epoch", "loss")] == [other[key] for key in ("epoch", "loss")]


def parameters(run: Path) -> dict[str, np.ndarray]:
    with np.load(run / "model.npz") as arrays:
        return dict(arrays)


def train_by_hand(experiment: Path, cluster: VirtualCluster, **more: str) -> dict[str, Any]:
    """What `sbatch jobs/train.sh` leaves of the same experiment."""
    shutil.rmtree(experiment.parent / "run")
    log = experiment.parent / "by-hand.log"
    variables = {"EXPERIMENT": str(experiment), "DHHPC": str(Path(sys.executable).with_name("dhhpc"))} | more
    options = [
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--time=5",
        f"--output={log}",
        "--wait",
    ]
    script = Path(__file__).parents[2] / "jobs" / "train.sh"
    done = subprocess.run(
        ["sbatch", *options, script], env=os.environ | cluster.environment | variables, check=False
    )
    assert done.returncode == 0, log.read_text()
    return record_of_run(experiment)


def test_training_in_the_background(experiment: Path) -> None:
    job = submit(experiment, "--ranks-per-node", "1", "--time", "5")
    assert finish(job).exit_code == 0
    run = record_of_run(experiment)
    assert (run["status"], run["ranks"]) == ("finished", 1)


def test_a_cancelled_background_job_of_two_ranks_resumes(experiment: Path) -> None:
    cancel_and_resume(experiment, "--ranks-per-node", "2")


def test_a_cancelled_pbs_job_of_two_ranks_resumes(experiment: Path, pbs: Path) -> None:
    """mpiexec starts the ranks, and qdel tells all of the job's processes at once."""
    # That of this Python, which may not be on PATH.
    launcher = f"launcher={shlex.quote(mpiexec(2)[0])} -n {{ranks}}"
    options = ("--site", "pbs-pro", "--ranks-per-node", "2", "--threads", "1", "--time", "5")
    options += ("--set", launcher)
    cancel_and_resume(experiment, *options)
