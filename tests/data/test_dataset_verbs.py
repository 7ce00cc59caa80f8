"""`dhhpc dataset ...` and `dhhpc preprocess` as a user types them."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dhhpc.cli.app import command_line
from dhhpc.data import read_dataset


def dhhpc(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dhhpc", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_describe_check_partition_merge_and_preprocess(photographs, tmp_path):
    root = photographs(9)
    path = root / "dataset.yml"
    result = dhhpc("dataset", "describe", path, "--json")
    assert json.loads(result.stdout)["split"]["training"]["classes"] == {
        "benign": 3,
        "malignant": 2,
        "other": 2,
    }
    assert dhhpc("dataset", "describe", path).stdout.startswith("skin: 9 images for classification\n")

    result = dhhpc("dataset", "partition", path, "--seed", 2)
    assert result.returncode == 1
    assert (
        result.stderr == f"dhhpc: {path}: has a split already; use --replace, or --output for another file\n"
    )
    result = dhhpc(
        "dataset",
        "partition",
        path,
        "--replace",
        "--training",
        0.5,
        "--validation",
        0,
        "--test",
        0.5,
        "--json",
    )
    assert json.loads(result.stdout)["split"]["validation"]["images"] == 0
    assert len(read_dataset(path).split.training) in (4, 5)

    merged = tmp_path / "both.yml"
    second = shutil.copytree(root, tmp_path / "second") / "dataset.yml"
    result = dhhpc("dataset", "merge", path, second, "--output", merged)
    assert result.stdout == f"{merged}: 18 images of 2 datasets\n"
    assert len(read_dataset(merged).images) == 18

    result = dhhpc("preprocess", root / "preprocess.yml", "--json")
    assert sum(json.loads(result.stdout)["samples"].values()) == 9
    assert "preprocess: 1 of" in result.stderr


def test_check_lists_problems_and_exits_with_1(photographs):
    root = photographs(4)
    path = root / "dataset.yml"
    result = dhhpc("dataset", "check", path)
    assert (result.returncode, result.stdout) == (0, f"{path}: 4 images, no problem\n")
    path.write_text(path.read_text().replace("label: malignant", "label: malignent"))
    (root / "photo2.png").unlink()
    result = dhhpc("dataset", "check", path, "--json")
    assert result.returncode == 1
    problems = json.loads(result.stdout)["problems"]
    assert len(problems) == 2
    assert "did you mean `malignant`?" in problems[0]
    assert f"{root / 'photo2.png'}: no such file" in problems[1]


@pytest.mark.parametrize(
    "arguments",
    [["dataset", "describe"], ["dataset", "merge", "a.yml"], ["preprocess", "p.yml", "--on-error", "retry"]],
)
def test_wrong_use_exits_with_2(arguments):
    assert CliRunner().invoke(command_line(), arguments).exit_code == 2


@pytest.mark.parametrize(
    "verb", [["dataset", part] for part in ("describe", "check", "partition", "merge")] + [["preprocess"]]
)
def test_help_shows_an_example(verb):
    result = CliRunner().invoke(command_line(), [*verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: dhhpc {' '.join(verb)} " in result.output


def test_help_imports_nothing_heavy():
    heavy = {"numpy", "h5py", "cv2", "mpi4py", "yaml"}
    code = f"import sys, dhhpc.cli.dataset, dhhpc.cli.preprocess; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
