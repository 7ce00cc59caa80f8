"""`dhhpc quickstart` in small: every part of the main job leaves what it promises."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import onnxruntime
import pydicom
import pytest
import yaml

from dhhpc.data.shards import ShardSet
from tests import synthetic

SMALL = ("--patients", 6, "--epochs", 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("quickstart") / "made"
    result = synthetic.run_dhhpc("quickstart", "--output", folder, *SMALL)
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.mark.slow
def test_patients_are_on_one_side_of_the_split(finished):
    dataset = yaml.safe_load((finished[0] / "dataset.yml").read_text())
    sides = [set(indices) for indices in dataset["split"].values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(dataset["images"]) == 6
    assert all(sides)


@pytest.mark.slow
def test_shards_hold_nothing_of_the_patients(finished):
    """No value of a patient's identifying attributes stands anywhere in the bytes of a shard."""
    folder = finished[0]
    keywords = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID")
    secrets = {
        str(dataset.get(keyword)).encode()
        for path in (folder / "scans").glob("*/*.dcm")
        for dataset in [pydicom.dcmread(path, stop_before_pixels=True)]
        for keyword in keywords
    }
    assert len(secrets) >= 6 * 4
    shards = sorted((folder / "shards").glob("*.h5"))
    assert shards
    for path in shards:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content]
        with h5py.File(path) as file:
            assert 0 <= file["images"][:].min() < file["images"][:].max() <= 1


@pytest.mark.slow
def test_exported_networks_run_elsewhere_and_agree(finished):
    folder = finished[0]
    results = json.loads((folder / "scaling" / "results.json").read_text())
    assert [row["ranks"] for row in results["rows"]] == [1, 2]
    assert len(results["masks"]) > 0
    images, masks, _ = ShardSet(folder / "shards").read("test", range(8))
    for row in results["rows"]:
        path = folder / "scaling" / row["run"] / "model.onnx"
        onnx.checker.check_model(onnx.load(path), full_check=True)
        session = onnxruntime.InferenceSession(path)
        (probabilities,) = session.run(None, {session.get_inputs()[0].name: images})
        assert probabilities.shape == (8, 1, *masks.shape[1:])
        assert np.isfinite(probabilities).all()
        assert set(row["test"]) >= {"dice", "iou", "precision", "recall"}
    assert (folder / "scaling" / "report.html").is_file()


@pytest.mark.slow
def test_the_three_commands_that_it_names_work(finished):
    folder, result = finished
    text = result.stdout.partition("Try next:\n")[2]
    commands = [shlex.split(line) for line in text.splitlines()]
    assert [command[1] for command in commands] == ["predict", "runs", "train"]
    for command in commands:
        if command[1] == "train":
            command[command.index("--epochs") + 1] = "1"  # enough to see it start and end
        ran = subprocess.run(
            [*starter(command[0]), *command[1:]],
            env=synthetic.clean_environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
    assert len(list((folder / "predicted").rglob("*"))) > 0


def starter(program: str) -> list[str]:
    """The installed command when the output names it; it may not be on this test's PATH."""
    return [sys.executable, "-m", "dhhpc"] if program.endswith("dhhpc") else [program]


@pytest.mark.slow
def test_started_again_it_keeps_what_is_finished(finished):
    folder, first = finished
    result = synthetic.run_dhhpc("quickstart", "--output", folder, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "kept: they are there already" in result.stdout
    assert result.stderr.count("kept, it was measured before") == 2

    def table(output: str) -> str:
        return output.partition("ranks  totm (s)")[2].partition("Made:")[0]

    assert table(result.stdout) == table(first.stdout) != ""


@pytest.mark.slow
def test_other_settings_or_a_foreign_folder_are_refused(finished, tmp_path):
    result = synthetic.run_dhhpc("quickstart", "--output", finished[0], "--patients", 7, "--epochs", 2)
    assert result.returncode == 1
    assert re.fullmatch(r"dhhpc: .*: holds a quickstart with patients 6, not 7; .*--force\n", result.stderr)
    (tmp_path / "thesis.tex").write_text("mine")
    result = synthetic.run_dhhpc("quickstart", "--output", tmp_path, "--force", *SMALL)
    assert result.returncode == 1
    assert "is not empty and holds no quickstart" in result.stderr
    assert (tmp_path / "thesis.tex").read_text() == "mine"
