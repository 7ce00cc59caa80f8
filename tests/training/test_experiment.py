"""The experiment file: wrong keys and values, overrides, paths."""

from pathlib import Path

import pytest
import yaml

from dhhpc.errors import DhhpcError
from dhhpc.training import read_experiment
from tests import synthetic


@pytest.fixture
def file(tmp_path) -> Path:
    return synthetic.write_experiment(tmp_path / "experiment.yml", Path("shards"), Path("run"))


def edited(file: Path, **changes) -> Path:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes, sort_keys=False))
    return file


def test_paths_are_relative_to_the_file(file, monkeypatch):
    monkeypatch.setenv("SHARDS_OF_TEST", "/data/shards")
    experiment = read_experiment(file)
    assert experiment.data.shards == file.parent / "shards"
    assert experiment.folder == file.parent / "run"
    assert read_experiment(edited(file, data={"shards": "$SHARDS_OF_TEST/a"})).data.shards == Path(
        "/data/shards/a"
    )
    document = yaml.safe_load(file.read_text())
    del document["output"]
    file.write_text(yaml.safe_dump(document))
    assert read_experiment(file).folder == file.parent / "runs" / "discs"


def test_a_variable_that_is_not_set_is_named(file):
    with pytest.raises(DhhpcError, match=r"NOT_SET_ANYWHERE.*is not set"):
        read_experiment(edited(file, data={"shards": "$NOT_SET_ANYWHERE/a"}))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"epoch": 3}, ["epoch", "did you mean `epochs`?"]),
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, ["optimizer.momentun", "did you mean `momentum`?"]),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, ["optimizer.momentum", "unknown key"]),
        ({"parallel": {"method": "fixed", "perod": 3}}, ["parallel.perod", "did you mean `period`?"]),
        ({"parallel": {"method": "fixd"}}, ["parallel", "'gradient', 'fixed'"]),
        ({"epochs": 0}, ["epochs", "greater than 0", "found 0"]),
        ({"augmentations": [{"name": "flip", "axis": "y"}]}, ["augmentations", "did you mean `axes`?"]),
    ],
)
def test_a_wrong_key_or_value_names_its_line_and_the_mend(file, changes, parts):
    edited(file, **changes)
    with pytest.raises(DhhpcError) as caught:
        read_experiment(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}:")
    assert int(message.removeprefix(f"{file}:").split(":")[0]) > 0
    for part in parts:
        assert part in message


def test_overrides(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = [
        "optimizer.learning_rate=0.5",
        "parallel={method: fixed, period: 4}",
        "network.channels=[2, 4]",
    ]
    experiment = read_experiment(file, [*changes, "output=elsewhere", "data.patch.size=[8, 8]"])
    assert experiment.optimizer.learning_rate == 0.5
    assert experiment.parallel.method == "fixed"
    assert experiment.network.options == {"channels": [2, 4], "normalization": False}
    assert experiment.folder == tmp_path / "elsewhere"
    assert experiment.data.shards == file.parent / "shards"
    assert experiment.data.patch is not None
    assert experiment.data.patch.size == (8, 8)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("optimizer.learnin_rate=3", "did you mean `optimizer.learning_rate`?"),
        ("optimizr.learning_rate=3", "did you mean `optimizer`?"),
        ("epochs", "give key=value"),
        ("epochs=many", "valid integer"),
        ("name.first=x", "name holds a value"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(file, override, part):
    with pytest.raises(DhhpcError) as caught:
        read_experiment(file, [override])
    assert str(caught.value).startswith(f"--set {override}")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_is_divided_or_multiplied(file):
    assert read_experiment(file).rank_batch_size(3) == 4
    divided = read_experiment(file, ["parallel={method: gradient, batch: divide}"])
    assert divided.rank_batch_size(2) == 2
    with pytest.raises(DhhpcError, match=r"batch_size 4 .* 3 ranks; choose a multiple of 3"):
        divided.rank_batch_size(3)
