"""The ready classification of chest CT: labels are those that the files tell, and its experiment trains."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import onnxruntime
import pydicom
import pytest
import yaml

from dhhpc import zoo
from dhhpc.data import ShardSet, preprocess, read_dataset, read_preprocess
from dhhpc.mpi import World
from dhhpc.resources import resource_folder
from dhhpc.scaling.reports.run_report import run_report
from dhhpc.scaling.studies.study import read_study
from tests import synthetic

PATIENTS = 6
SPLITS = ("training", "validation", "test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("usecase") / "nodules"
    result = synthetic.run_here("usecase", "nodules", "--output", folder, "--patients", PATIENTS)
    assert result.returncode == 0, result.stderr
    assert str(folder / "preprocess.yml") in result.stdout
    # Names in the shards tell which file a tile is from; all else is as the user gets it.
    document = yaml.safe_load((folder / "preprocess.yml").read_text()) | {"deidentify": False}
    (folder / "preprocess.yml").write_text(yaml.safe_dump(document))
    preprocess(read_preprocess(folder / "preprocess.yml"), World())
    return folder


def tiles_of(shards: ShardSet):
    """(patient, slice, tile, image, label) of every sample."""
    for split in shards.splits:
        images, labels, _ = shards.read(split, range(shards.count(split)))
        for name, image, label in zip(shards.identifiers(split), images, labels, strict=True):
            scan, depth, tile = name.rsplit("/", 2)
            yield scan.removeprefix("scans/"), int(depth), int(tile), image[0], label


def read_files(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Hounsfield units and mask (z, y, x) by pydicom and nibabel, and pixel spacing in mm, by patient."""
    files = {}
    for scan in (folder / "scans").iterdir():
        slices = [pydicom.dcmread(path) for path in scan.glob("*.dcm")]
        slices.sort(key=lambda each: float(each.ImagePositionPatient[2]))
        volume = np.stack([each.pixel_array * each.RescaleSlope + each.RescaleIntercept for each in slices])
        mask = np.asarray(nibabel.load(folder / "masks" / f"{scan.name}.nii.gz").dataobj).transpose(2, 1, 0)
        files[scan.name] = volume, mask, float(slices[0].PixelSpacing[0])
    return files


def test_labels_are_counts_on_the_masks_of_the_files(prepared, tmp_path):
    """Without resampling, pixel by pixel: image, mask and label of each tile are those of the files."""
    document = yaml.safe_load((prepared / "preprocess.yml").read_text())
    document |= {"dataset": str(prepared / "dataset.yml"), "output": "shards", "tiles": [40, 80]}
    document["pipeline"] = [step for step in document["pipeline"] if step["name"] == "window"]
    (tmp_path / "preprocess.yml").write_text(yaml.safe_dump(document))
    preprocess(read_preprocess(tmp_path / "preprocess.yml"), World())
    found = np.zeros(2, int)
    files = read_files(prepared)
    for patient, depth, tile, image, label in tiles_of(ShardSet(tmp_path / "shards")):
        volume, mask, _ = files[patient]
        top, left = tile // 2 * 40, tile % 2 * 80
        window = np.clip((volume[depth, top : top + 40, left : left + 80] + 1350) / 1500, 0, 1)
        np.testing.assert_allclose(image, window, atol=1e-5)
        nodule = np.count_nonzero(mask[depth, top : top + 40, left : left + 80]) >= 8
        assert label.tolist() == [not nodule, nodule]
        found[int(nodule)] += 1
    assert found.sum() == PATIENTS * 6 * 8
    assert found.min() > 40


def test_labels_of_the_ready_pipeline_agree_with_areas_in_millimetres(prepared):
    """A tile of 112 x 112 mm is of class nodule where it clearly has more than 32 mm2 of them."""
    shards = ShardSet(prepared / "shards")
    assert shards.sample_shape == (1, 56, 56)
    assert shards.classes == ["background", "nodule"]
    judged, files = np.zeros(2, int), read_files(prepared)
    for patient, depth, tile, _, label in tiles_of(shards):
        _, mask, spacing = files[patient]
        # Centres of pixels from the middle of the slice, in mm; tiles lie in two rows of three around it.
        centres = (np.arange(mask.shape[1]) - (mask.shape[1] - 1) / 2) * spacing
        top, left = (tile // 3 - 1) * 112, (tile % 3 - 1.5) * 112
        rows, columns = ((centres >= start) & (centres < start + 112) for start in (top, left))
        area = np.count_nonzero(mask[depth][np.ix_(rows, columns)]) * spacing**2
        if area < 16 or area > 64:
            assert label.tolist() == [area < 32, area > 32], (patient, depth, tile, area)
            judged[int(area > 32)] += 1
    assert judged.sum() > 0.9 * PATIENTS * 6 * 6
    assert judged.min() > 50


def test_patients_are_on_one_side_and_the_studies_find_the_experiment(prepared):
    dataset = read_dataset(prepared / "dataset.yml")
    sides = [dataset.splits[name] for name in SPLITS]
    assert sorted(index for side in sides for index in side) == list(range(PATIENTS))
    assert all(sides)
    for mode in ("strong", "weak"):
        path = resource_folder("scaling-studies") / f"{mode}-resnet18.yml"
        study, experiment = read_study(path, prepared / "experiment.yml")
        assert (study.mode, study.ranks, experiment) == (mode, [1, 2, 4], prepared / "experiment.yml")
        # What the header says prepares the folder that the study looks into.
        assert study.experiment == "../nodules/experiment.yml"
        assert "#   dhhpc usecase nodules --output nodules\n" in path.read_text()
        assert "#   dhhpc preprocess nodules/preprocess.yml --ranks 2\n" in path.read_text()


def test_its_experiment_trains_predicts_and_is_reported(prepared, tmp_path):
    changes = ("--epochs", 1, "--set", "network.width=4", "--output", tmp_path / "run")
    trained = synthetic.run_dhhpc("train", prepared / "experiment.yml", *changes)
    assert trained.returncode == 0, trained.stderr
    evaluated = synthetic.run_here("evaluate", tmp_path / "run", "--split", "test")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    shards = ShardSet(prepared / "shards")
    confusion = np.array(metrics["confusion"])
    np.testing.assert_array_equal(confusion.sum(axis=1), shards.labels("test").sum(axis=0))
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    # A scan's probabilities are means over its tiles.
    dataset = read_dataset(prepared / "dataset.yml")
    scan = prepared / dataset.images[dataset.splits["test"][0]].location
    predicted = synthetic.run_here("predict", tmp_path / "run", scan, "--output", tmp_path / "predicted")
    assert predicted.returncode == 0, predicted.stderr
    values = json.loads((tmp_path / "predicted" / "predictions.json").read_text())[str(scan)]
    session = onnxruntime.InferenceSession(tmp_path / "run" / "model.onnx")
    own = [image[None] for patient, *_, image, _ in tiles_of(shards) if patient == scan.name]
    (expected,) = session.run(None, {session.get_inputs()[0].name: np.stack(own)})
    assert len(own) == 6 * 6
    np.testing.assert_allclose(list(values.values()), expected.mean(axis=0), atol=1e-4)
    page = run_report(tmp_path / "run", zoo.create).read_text()
    assert "On the test images the accuracy is" in page
    assert "<th>AUC</th>" in page
    assert "Dice overlap" not in page
    head = '<th class="text">class, on the test split</th>'
    assert f"{head}<th>precision</th><th>recall</th><th>F1</th><th>AUC</th></tr>" in page
    assert not (tmp_path / "run" / "plots" / "masks.png").exists()
