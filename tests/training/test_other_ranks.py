"""A run that goes on with another number of ranks, in the middle of an epoch."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from dhhpc import zoo
from dhhpc.mpi import World
from dhhpc.mpi.launch import mpiexec
from dhhpc.training import read_experiment, read_run, train
from tests import synthetic
from tests.training import part_of_a_run
from tests.training.runs import assert_close, parameters

SAMPLES, EPOCHS = 103, 3


def run_parts(file: Path, folder: Path) -> list[tuple[int, int]]:
    """On 4 ranks until they are told to stop after 2 batches, then on 2, then to the end on 3: all samples
    that were taken, with their epochs."""
    taken = []
    for ranks, stop in ((4, 2), (2, 2), (3, 0)):
        command = [
            *mpiexec(ranks),
            sys.executable,
            part_of_a_run.__file__,
            file,
            folder / f"part-{ranks}",
            stop,
        ]
        done = subprocess.run(map(str, command), capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("stopped") == ranks * (stop > 0)
        for rank in range(ranks):
            taken += json.loads((folder / f"part-{ranks}-{rank}.json").read_text())
    return [(epoch, sample) for epoch, sample in taken]


def test_no_sample_is_lost_or_repeated_and_the_steps_are_those_of_one_rank(tmp_path):
    """With a batch that the ranks divide, every global batch is what it would be on one rank.

    The state has some 7 kB, so that of four ranks three write a shard of it.
    """
    shards = synthetic.write_discs(tmp_path / "shards", {"training": SAMPLES, "validation": 5})
    changes = {"batch_size": 12, "epochs": EPOCHS, "parallel": {"method": "gradient", "batch": "divide"}}
    changes["checkpoint"] = {"select": "last", "shard_megabytes": 0.002, "keep": 9}
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", **changes)
    taken = run_parts(file, tmp_path)
    assert Counter(taken) == {(epoch, sample): 1 for epoch in range(EPOCHS) for sample in range(SAMPLES)}
    parts = (tmp_path / "run" / "checkpoints").glob("epoch-00000-*.part")
    assert Counter(path.name.partition("-rank-")[0] for path in parts).most_common(2)[0][1] == 3
    experiment = read_experiment(file).model_copy(update={"output": tmp_path / "alone"})
    alone = train(experiment, World(), zoo.create)
    assert_close(parameters(read_run(tmp_path / "run")), parameters(alone))
    losses = [
        [epoch["loss"] for epoch in read_run(tmp_path / name).content["history"]] for name in ("run", "alone")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_no_sample_is_lost_or_repeated_where_the_batch_changes(tmp_path):
    """Batches of 12, 6 and 9 samples do not begin at the same places, and ranks differ when they stop."""
    method = {"method": "fixed", "period": 3, "optimizer_state": "keep", "batch": "multiply"}
    shards = synthetic.write_discs(tmp_path / "shards", {"training": SAMPLES, "validation": 5})
    changes = {"batch_size": 3, "epochs": 2, "parallel": method}
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", **changes)
    taken = run_parts(file, tmp_path)
    assert Counter(taken) == {(epoch, sample): 1 for epoch in range(2) for sample in range(SAMPLES)}
    history = read_run(tmp_path / "run").content["history"]
    assert len(history[-1]["ranks"]) == 3
    assert history[1]["validation"]["loss"] < history[0]["validation"]["loss"]
