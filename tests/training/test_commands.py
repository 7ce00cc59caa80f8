"""The commands in processes of their own: kills, signals, bad input, and the verbs behind a run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dhhpc import ecvl
from dhhpc.cli.app import main
from dhhpc.cli.runs import averaging
from dhhpc.data.shards import ShardSet
from tests import synthetic
from tests.training.processes import (
    FULL,
    final_state,
    selected_model,
    start,
    wait_for_epochs,
    wait_for_the_end_of,
)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Enough images for an epoch to take a while."""
    return synthetic.write_discs(tmp_path_factory.mktemp("many"), {"training": 41, "validation": 6}, size=32)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_and_resumed_run_ends_as_one_never_killed(many, tmp_path, ranks):
    method = {"method": "fixed", "period": 3}
    file = synthetic.write_experiment(
        tmp_path / "e.yml", many, tmp_path / "run", epochs=8, parallel=method, **FULL
    )
    whole = synthetic.run_dhhpc("train", file, "--ranks", ranks, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    process = start("train", file, "--ranks", ranks)
    wait_for_epochs(tmp_path / "run", 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_the_end_of(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(record["history"]) < 8
    assert not (tmp_path / "run" / "model.npz").exists()
    resumed = synthetic.run_dhhpc("train", file, "--ranks", ranks, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "from epoch" in resumed.stderr
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")
    assert selected_model(tmp_path / "run") == selected_model(tmp_path / "whole")
    losses = [
        [epoch["loss"] for epoch in json.loads((tmp_path / name / "run.json").read_text())["history"]]
        for name in ("run", "whole")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("ranks", "number", "method"),
    [
        (1, signal.SIGTERM, {"method": "fixed", "period": 3}),
        (2, signal.SIGUSR1, {"method": "gradient"}),
    ],
)
def test_a_signal_writes_a_checkpoint_and_ends_with_75(many, tmp_path, ranks, number, method):
    """The checkpoint lies where the signal came, inside an epoch, and going on from it is exact."""
    changes = FULL | {"schedule": {"name": "constant"}, "parallel": method, "batch_size": 2}
    file = synthetic.write_experiment(tmp_path / "e.yml", many, tmp_path / "run", **changes)
    process = start("train", file, "--ranks", ranks, "--epochs", 400, "--set", "checkpoint.every_epochs=400")
    wait_for_epochs(tmp_path / "run", 1, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert "go on with --resume" in errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    (description,) = (tmp_path / "run" / "checkpoints").glob("*.json")
    epochs = json.loads(description.read_text())["epoch"] + 1
    command = ("train", file, "--ranks", ranks, "--epochs", epochs, "--output")
    resumed = synthetic.run_dhhpc(*command, tmp_path / "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = synthetic.run_dhhpc(*command, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert final_state(tmp_path / "run") == final_state(tmp_path / "whole")


@pytest.fixture
def dhhpc(monkeypatch, capsys):
    """The command line in this process, which saves the imports."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["dhhpc", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        output = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(str(code)), output.out, output.err)

    return run


def test_the_verbs_behind_a_run(dhhpc, tmp_path):
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 40, "validation": 4, "test": 5})
    changes = FULL | {"epochs": 6, "optimizer": {"name": "adam", "learning_rate": 0.02}}
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "runs" / "a", **changes)
    run = tmp_path / "runs" / "a"
    trained = synthetic.run_dhhpc("train", file, "--set", "augmentations=[]", "--threads", 1)
    assert trained.returncode == 0, trained.stderr
    assert f"dhhpc evaluate {run}" in trained.stdout
    assert trained.stderr.count("epoch ") == 6

    one = dhhpc("evaluate", run, "--json")
    two = synthetic.run_dhhpc("evaluate", run, "--json", "--ranks", 2)
    results = [json.loads(result.stdout) for result in (one, two)]
    assert results[0] == pytest.approx(results[1])
    assert results[0]["samples"] == 5
    assert json.loads((run / "metrics.json").read_text())["test"] == results[1]
    assert f"{results[0]['dice']:.4f}" in dhhpc("evaluate", run).stdout
    wrong = dhhpc("evaluate", run, "--split", "tset")
    assert wrong.returncode == 1
    assert "no samples in split `tset`" in wrong.stderr

    exported = dhhpc("export", run, tmp_path / "model.onnx")
    assert exported.returncode == 0, exported.stderr
    images, masks, _ = ShardSet(shards).read("test", range(5))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: images})
    expected = (probabilities[:, 0] > 0.5).astype(np.uint8)
    both = np.count_nonzero(expected & masks)
    assert results[0]["dice"] == pytest.approx(2 * both / (expected.sum() + masks.sum()), abs=0.02)

    predicted = dhhpc("predict", run, shards, "--output", tmp_path / "masks")
    assert predicted.returncode == 0, predicted.stderr
    paths = predicted.stdout.split()
    assert len(paths) == 5
    written = np.array([ecvl.read(path).array for path in paths])
    assert set(np.unique(written)) == {0, 255}
    assert np.mean((written == 255) == (expected == 1)) > 0.99

    listed = json.loads(dhhpc("runs", "list", tmp_path, "--json").stdout)
    assert [(row["run"], row["status"], row["epochs"]) for row in listed] == [(str(run), "finished", 6)]
    assert "finished" in dhhpc("runs", "list", tmp_path).stdout
    shown = dhhpc("runs", "show", run).stdout
    assert "epoch 6/6" in shown
    record = json.loads((run / "run.json").read_text())
    assert f"load before {record['load'][socket.gethostname()][0]:.2f} on {socket.gethostname()}\n" in shown
    assert record["binding"] == [sorted(os.sched_getaffinity(0))]
    assert "test split" in shown


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr of a command that failed as it should."""
    lines = result.stderr.splitlines()
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dhhpc: ")
    assert result.stdout == ""
    return lines[0]


def test_what_averaging_cost_is_shown():
    """Two epochs of two ranks: 4 of 40 seconds went into communication."""
    rank = {"data": 1.0, "compute": 7.0, "communication": 1.0, "wait": 1.0, "validation": 9.0, "messages": 9}
    epoch = {"averagings": 3, "bytes_sent": 2_000_000, "ranks": [rank, rank]}
    content = {"experiment": {"parallel": {"method": "elastic"}}, "history": [epoch, epoch]}
    assert averaging(content) == (
        "elastic: 6 averagings, 4.0 MB sent by a rank, communication 10.0% of the time"
    )
    assert averaging(content | {"history": []}) == "elastic"


def test_bad_input_gives_one_line_and_nothing_half_written(dhhpc, discs, tmp_path):
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run")

    def error(*arguments: object) -> str:
        return one_line(dhhpc(*arguments))

    assert "21 training samples for 30 ranks" in error("train", file, "--ranks", 30)
    assert "did you mean `epochs`" in error("train", file, "--set", "epoch=3")
    assert "network 'unett' is unknown; did you mean unet?" in error(
        "train", file, "--ranks", 2, "--set", "network.name=unett"
    )
    assert "no such file" in error("train", tmp_path / "none.yml")
    assert "index.json" in error("train", file, "--set", "data.shards=nowhere")
    assert "no run folder" in error("evaluate", tmp_path)
    assert "no such folder" in error("runs", "list", tmp_path / "none")
    assert "at least 1" in error("train", file, "--ranks", 0)
    assert "loss 'bce' is unknown" in error("train", file, "--set", "loss=bce")
    assert not (tmp_path / "run").exists()


def test_what_starts_ranks_loads_no_kernels_and_what_trains_no_image_formats(discs, tmp_path):
    """The process behind `--ranks` checks the experiment, and stays as long as the ranks."""
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run")
    code = (
        "import sys\n"
        "from dhhpc import training, zoo\n"
        "training.check(training.read_experiment(sys.argv[1]), 2, zoo.create)\n"
        "heavy = {'numba', 'scipy', 'mpi4py', 'pydicom', 'nibabel', 'PIL', 'matplotlib', 'onnx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


def test_tasks_of_srun_that_do_not_meet_are_refused(discs, tmp_path):
    """A step of two tasks whose MPI does not speak SLURM's protocol: each finds itself alone."""
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run")
    step = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    line = one_line(synthetic.run_dhhpc("train", file, environment=step))
    assert "the MPI world has 1 rank but SLURM started 2 tasks (SLURM_NTASKS=2)" in line
    assert "srun --mpi=pmi2" in line
    assert not (tmp_path / "run").exists()
