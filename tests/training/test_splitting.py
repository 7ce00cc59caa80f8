"""The split of batches by measured speed: by hand, and with a rank that is slowed down."""

import contextlib
import signal
from pathlib import Path

import numpy as np

from dhhpc.benchmarks.straggler import slowed
from dhhpc.training import read_run
from dhhpc.training.splitting import Pace, measured_weights
from tests import synthetic
from tests.training.processes import start, wait_for_epochs


def record(weights, speeds):
    return {"weights": weights, "paces": [{"seconds": 1 / speed if speed else None} for speed in speeds]}


def test_weights_by_hand():
    calibrated = [3.0, 1.0]
    assert measured_weights([], calibrated) == calibrated
    # Of 40 samples the second rank's 10 take 2 s; 35 a second together would take 40 / 35 s.
    slow = record([3.0, 1.0], [30, 5])
    assert measured_weights([slow], calibrated) == [30, 5]
    # Both take as long as the ideal but for a twentieth: the weights stay.
    even = record([3.0, 1.0], [30, 9.6])
    assert measured_weights([even], calibrated) == [3.0, 1.0]
    # One bad epoch of three does not count, two do.
    assert measured_weights([even, slow, even], calibrated) == [3.0, 1.0]
    np.testing.assert_allclose(measured_weights([slow, even, slow], calibrated), [30, 5])
    # The last rank had nothing to do, and keeps its weight: a tenth of the others.
    weights = measured_weights([record([6.0, 4.0, 1.0], [60, 20, 0])], [1.0, 1.0, 1.0])
    np.testing.assert_allclose(weights, [60, 20, 8])
    # What other ranks measured is of no use.
    assert measured_weights([record([1.0] * 3, [4] * 3)], calibrated) == calibrated


def test_a_pace_is_the_median_of_an_epochs_batches():
    pace = Pace()
    for samples, total in ((4, 8.0), (4, 12.0), (0, 12.0), (2, 14.0)):
        pace.add(samples, total)
    assert pace.finish() == {"samples": 10, "seconds": 1.0}
    pace.add(0, 14.0)
    assert pace.finish() == {"samples": 0, "seconds": None}


def process_of(rank: int, run: Path) -> int:
    """The process of a rank of the run in this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            if (
                f"PMI_RANK={rank}".encode() in environment
                and str(run).encode() in (process / "cmdline").read_bytes()
            ):
                return int(process.name)
    raise AssertionError(f"no rank {rank} of {run}")


def test_a_slow_rank_takes_less(tmp_path):
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 64}, size=32)
    changes = {
        "network": {"name": "unet", "channels": [8, 16]},
        "batch_size": 8,
        "epochs": 1000,
        "parallel": {"method": "gradient", "split": "measured"},
    }
    run = tmp_path / "run"
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, run, **changes)
    process = start("train", file, "--ranks", 2, "--output", run)
    wait_for_epochs(run, 1, process)
    with slowed(process_of(1, run), running=0.01):
        wait_for_epochs(run, len(read_run(run).content["history"]) + 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.communicate()
    history = read_run(run).content["history"]
    assert min(epoch["weights"][1] / epoch["weights"][0] for epoch in history) < 0.6
    for epoch in history:
        assert sum(pace["samples"] for pace in epoch["paces"]) == 64 or epoch is history[-1]
