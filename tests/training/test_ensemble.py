"""Ensembles against their members' outputs averaged by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dhhpc import ecvl, zoo
from dhhpc.cli.app import main
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training import Experiment, Series, evaluate, load_ensemble, load_network, read_run, train_series
from dhhpc.training.ensemble import evaluate_series
from tests import synthetic

CLASSIFIER = {"network": {"name": "convnet", "channels": [4]}, "loss": "softmax_cross_entropy"}
ADAM = {"optimizer": {"name": "adam", "learning_rate": 0.02}}


def trained(shards: Path, output: Path, seeds=2, folds=None, **changes) -> Series:
    document = synthetic.experiment_document(shards, output, **ADAM | changes)
    series = Series(Experiment.model_validate(document), seeds, folds)
    assert train_series(series, World(), zoo.create) == []
    return series


@pytest.fixture
def printed(capsys, monkeypatch):
    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["dhhpc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert (ended.value.code or 0) == code, output.err
        return output.out if code == 0 else output.err

    return run


def mean_probabilities(series: Series, images: np.ndarray) -> np.ndarray:
    models = [load_network(read_run(member.folder), zoo.create)[0] for member in series.members]
    return np.mean([model.predict([images])[0].astype(np.float64) for model in models], axis=0)


def test_segmentation(discs, tmp_path, printed):
    series = trained(discs, tmp_path / "run", seeds=3, epochs=12)
    images, masks, _ = ShardSet(discs).read("test", range(5))
    mean = mean_probabilities(series, images)
    ensemble, _ = load_ensemble(series, zoo.create)
    np.testing.assert_allclose(ensemble.predict([images])[0], mean, atol=1e-6)
    found = mean[:, 0] > 0.5
    dice = 2 * np.count_nonzero(found & (masks == 1)) / (found.sum() + masks.sum())
    assert 0 < dice < 1

    summary = json.loads(printed("evaluate", series.folder, "--json"))
    of_dice = summary["metrics"]["test"]["dice"]
    assert of_dice["ensemble"] == pytest.approx(dice)
    for member in series.members:
        model, _, own = load_network(read_run(member.folder), zoo.create)
        alone = evaluate(model, own, "test", World())["dice"]
        assert of_dice["values"][member.name] == pytest.approx(alone)
    assert "ensemble" in printed("runs", "show", series.folder)
    on_shards = json.loads(printed("evaluate", series.folder, "--shards", discs, "--json"))
    assert on_shards["dice"] == pytest.approx(dice)

    paths = printed("predict", series.folder, discs, "--output", tmp_path / "masks").split()
    written = np.array([ecvl.read(path).array for path in paths])
    np.testing.assert_array_equal(written == 255, found)


def test_an_ensemble_of_other_members_is_not_shown(discs, tmp_path, printed):
    series = trained(discs, tmp_path / "run", epochs=1)
    evaluate_series(series, "test", World(), zoo.create)
    more = Series(series.experiment, 3, None)
    train_series(more, World(), zoo.create, resume=True)
    dice = json.loads(printed("runs", "show", series.folder, "--json"))["metrics"]["test"]["dice"]
    assert (list(dice["values"]), dice["ensemble"]) == (["seed-3", "seed-4"], None)
    assert "without seed-5" in printed("runs", "show", series.folder)
    (series.folder / "seed-5" / "run.json").unlink()
    assert "seed-5: is not started, and an ensemble needs all members" in printed(
        "evaluate", series.folder, code=1
    )


def test_classes_and_folds(tmp_path, printed):
    """Folds are no ensemble on images that most of them have learned from."""
    shards = synthetic.write_stripes(tmp_path / "stripes", {"training": 20, "validation": 7, "test": 9})
    series = trained(shards, tmp_path / "run", seeds=None, folds=2, **CLASSIFIER)
    images, labels, _ = ShardSet(shards).read("test", range(9))
    mean = mean_probabilities(series, images)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-6)
    accuracy = np.mean(mean.argmax(axis=1) == labels.argmax(axis=1))
    summary = json.loads(printed("evaluate", series.folder, "--json"))
    assert summary["metrics"]["test"]["accuracy"]["ensemble"] == pytest.approx(accuracy)
    with pytest.raises(DhhpcError, match="--split validation: most folds were trained on these images"):
        evaluate_series(series, "validation", World(), zoo.create)
    ecvl.write(tmp_path / "one.tif", ecvl.Image(images[0, 0], "yx"))
    printed("predict", series.folder, tmp_path / "one.tif", "--output", tmp_path / "out")
    classes = json.loads((tmp_path / "out" / "predictions.json").read_text())[str(tmp_path / "one.tif")]
    assert list(classes.values()) == pytest.approx(mean[0].tolist(), abs=1e-6)
