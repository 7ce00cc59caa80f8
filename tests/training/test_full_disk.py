"""A disk that is full: every rank stops with one line, and the last good checkpoint can be gone on from."""

import os
import re
import subprocess
import sys

import pytest

from tests import synthetic
from tests.training.processes import FULL, final_state


def the_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only one that is told of a run that failed, beside those of its progress."""
    assert result.returncode == 1, result.stderr
    (line,) = [
        line for line in result.stderr.splitlines() if not line.startswith(("training into ", "epoch "))
    ]
    return line


def test_a_checkpoint_that_does_not_fit_leaves_nothing(discs, tmp_path):
    """The file size limit of the process stands for the disk: the model's arrays do not fit."""
    network = {"name": "unet", "channels": [32, 64]}
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run", network=network)
    command = f"ulimit -f 64; exec {sys.executable} -m dhhpc train {file}"
    result = subprocess.run(
        ["bash", "-c", command], env=synthetic.clean_environment(), capture_output=True, text=True, timeout=60
    )
    line = the_line(result)
    assert line.startswith(
        f"dhhpc: {tmp_path}/run/checkpoints/epoch-00001-sample-000000000-rank-00000.part: "
    )
    assert "cannot be written (File too large)" in line
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system to fill")
def test_a_disk_that_fills_up_keeps_the_last_checkpoint(discs, tmp_path):
    """With room for one checkpoint of some 310 kB, of two ranks, and not for a second one beside it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    changes = FULL | {"network": {"name": "unet", "channels": [16, 32]}, "epochs": 3}
    changes["checkpoint"] = {"shard_megabytes": 0.01, "select": "last", "keep": 1}
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, disk / "run", **changes)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=480k", "tmpfs", str(disk)], check=True)
    try:
        line = the_line(synthetic.run_dhhpc("train", file, "--ranks", 2))
        # While the checkpoint that does not fit is being written, the record of the run does not fit either.
        of_one = r"checkpoints/epoch-00002-sample-000000000\S*|run\.json"
        assert re.search(
            rf"{re.escape(str(disk))}/run/({of_one}): cannot be written \(No space left on device\); free",
            line,
        ), line
        folder = disk / "run" / "checkpoints"
        kept = {path.name for path in folder.iterdir() if "epoch-00002" not in path.name}
        name = "epoch-00001-sample-000000000"
        assert kept == {f"{name}-rank-00000.part", f"{name}-rank-00001.part", f"{name}.json"}
        # Of the other a rank may have written its part, which without a description is none.
        assert not list(folder.glob("epoch-00002*.json"))
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        resumed = synthetic.run_dhhpc("train", file, "--ranks", 2, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert "from epoch 2" in resumed.stderr
        # And nothing is left of it.
        described = {path.stem for path in folder.glob("*.json")}
        assert {path.name.partition("-rank-")[0] for path in folder.glob("*.part")} == described
        assert {path.suffix for path in folder.iterdir()} == {".json", ".part"}
        whole = synthetic.run_dhhpc("train", file, "--ranks", 2, "--output", tmp_path / "whole")
        assert whole.returncode == 0, whole.stderr
        assert final_state(disk / "run") == final_state(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
