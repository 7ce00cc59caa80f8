"""The generated chest CT study set: real DICOM, sound anatomy, masks in place, no task for a threshold."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from dhhpc import ecvl
from dhhpc.data import check_dataset, read_dataset
from dhhpc.errors import DhhpcError
from dhhpc.usecases import chest_phantom
from dhhpc.usecases.chest_ct import DIAMETERS, PIPELINE, generate_chest_ct

PATIENTS = 6


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chest")
    generate_chest_ct(folder, patients=PATIENTS, seed=3)
    return folder


@pytest.fixture(scope="module")
def pairs(study) -> list[tuple[ecvl.Image, ecvl.Image]]:
    """(volume, mask) of every patient."""
    names = [f"patient-{number:03d}" for number in range(1, PATIENTS + 1)]
    return [
        (ecvl.read(study / "scans" / name), ecvl.read(study / "masks" / f"{name}.nii.gz")) for name in names
    ]


def test_dataset_is_sound(study):
    dataset = read_dataset(study / "dataset.yml")
    assert check_dataset(dataset) == []
    assert dataset.classes == ["nodule"]
    assert [image.values["patient"] for image in dataset.images] == [f"patient-{n:03d}" for n in range(1, 7)]


def test_series_are_ct_image_storage_with_all_that_a_scanner_writes(study):
    seen = set()
    for folder in sorted((study / "scans").iterdir()):
        datasets = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
        assert 10 <= len(datasets) <= 14
        heights = [dataset.ImagePositionPatient[2] for dataset in datasets]
        assert heights != sorted(heights)  # names tell nothing
        for dataset in datasets:
            assert dataset.SOPClassUID.name == "CT Image Storage"
            assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
            assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, -1024)
            assert (dataset.WindowCenter, dataset.WindowWidth) == (-600, 1500)
            for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber"):
                assert dataset.get(keyword)
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert len({dataset[keyword].value for dataset in datasets}) == 1
        assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)
        seen.add((datasets[0].PatientID, float(datasets[0].PixelSpacing[0]), len(datasets)))
    assert len({identity for identity, _, _ in seen}) == PATIENTS
    assert len({spacing for _, spacing, _ in seen}) == PATIENTS
    assert len({count for _, _, count in seen}) > 1


def test_masks_lie_on_the_grid_of_their_series(study, pairs):
    for number, (volume, mask) in enumerate(pairs, 1):
        assert mask.array.shape == volume.array.shape
        assert set(np.unique(mask.array)) == {0, 1}
        assert np.allclose(mask.metadata["affine"], volume.metadata["affine"], atol=1e-3)
        nifti = nibabel.load(study / "masks" / f"patient-{number:03d}.nii.gz")
        assert np.array_equal(np.asarray(nifti.dataobj), mask.array.transpose(2, 1, 0))
        first = pydicom.dcmread(
            min((study / "scans" / f"patient-{number:03d}").iterdir(), key=lambda path: height_of(path))
        )
        left, posterior, superior = (float(value) for value in first.ImagePositionPatient)
        assert nifti.affine[:3, 3] == pytest.approx([-left, -posterior, superior], abs=1e-3)


def height_of(path: Path) -> float:
    return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def test_tissues_have_their_hounsfield_units(pairs):
    for volume, mask in pairs:
        array = volume.array
        assert -1024 <= array.min() < -1000
        assert np.median(array[:, :4]) == pytest.approx(-1000, abs=15)  # air in front of the chest
        lung = lung_region(array)
        assert 0.08 < lung.mean() < 0.4
        assert -900 < np.median(array[lung & (mask.array == 0)]) < -780
        assert 20 < np.median(array[(array > -20) & (array < 120)]) < 70
        assert (array > 450).mean() > 0.003  # bone
        # Soft nodules at 0 to 80 HU, ground glass at about -500; edges are blurred.
        assert np.percentile(array[mask.array > 0], 90) > -520
        assert np.median(array[mask.array > 0]) > np.median(array[lung]) + 250


def test_nodules_run_through_slices_and_most_slices_have_one(pairs):
    with_nodule = np.concatenate([mask.array.any(axis=(1, 2)) for _, mask in pairs])
    assert with_nodule.mean() > 0.75
    for _, mask in pairs:
        labels, count = ndimage.label(mask.array, np.ones((3, 3, 3)))
        assert 2 <= count <= 6
        sizes = np.bincount(labels.ravel())[1:]
        largest = labels == 1 + int(np.argmax(sizes))
        slices = np.flatnonzero(largest.any(axis=(1, 2)))
        assert len(slices) >= 3
        assert np.array_equal(slices, np.arange(slices[0], slices[-1] + 1))
        volume_mm3 = sizes.max() * np.prod(mask.spacing)
        assert 150 < volume_mm3 < 4 / 3 * np.pi * 16**3


def test_drawn_nodules_keep_their_promises():
    diameters, at_pleura = [], 0
    heights = np.arange(12) * 2.5
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chest = chest_phantom.draw_chest(rng)
        nodules = chest_phantom.draw_nodules(chest, rng, heights, 3, DIAMETERS)
        assert max(nodule.diameter for nodule in nodules) >= 10
        for index, nodule in enumerate(nodules):
            assert chest.lung(*nodule.center) < 0
            at_pleura += bool(-chest.cavity(*nodule.center) < nodule.diameter / 2)
            for other in nodules[:index]:
                gap = np.linalg.norm(nodule.center - other.center) - (nodule.diameter + other.diameter) / 2
                assert gap > 3.9
        diameters += [nodule.diameter for nodule in nodules]
    assert min(diameters) >= 5
    assert max(diameters) <= 30
    assert min(diameters) < 8
    assert max(diameters) > 24
    assert 8 <= at_pleura <= 35


def test_nodule_surface_is_near_its_ellipsoid():
    """The volume inside the surface is that of a ball of the nodule's diameter, within its irregularity."""
    rng = np.random.default_rng(0)
    chest = chest_phantom.draw_chest(rng)
    nodule = chest_phantom.draw_nodules(chest, rng, np.arange(12) * 2.5, 1, (20.0, 20.0))[0]
    steps = np.arange(-20, 20, 0.5)
    z, y, x = np.meshgrid(*[steps + nodule.center[axis] for axis in (2, 1, 0)], indexing="ij")
    inside = nodule.distance(x, y, z) < 0
    assert inside.sum() * 0.5**3 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.3)
    assert not (inside & ((x - nodule.center[0]) ** 2 + (y - nodule.center[1]) ** 2
                          + (z - nodule.center[2]) ** 2 > nodule.reach**2)).any()  # fmt: skip


def test_same_seed_same_bytes_and_patients_do_not_depend_on_their_number(study, tmp_path):
    generate_chest_ct(tmp_path / "again", patients=2, seed=3)
    files = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    assert len(files) > 20
    for file in files:
        if file.name != "dataset.yml":
            assert (tmp_path / "again" / file).read_bytes() == (study / file).read_bytes()
    generate_chest_ct(tmp_path / "other", patients=1, seed=4)
    first, other = (ecvl.read(folder / "scans" / "patient-001") for folder in (study, tmp_path / "other"))
    assert first.array.shape != other.array.shape or not np.array_equal(first.array, other.array)


def test_generating_again_leaves_no_stale_slices(tmp_path):
    generate_chest_ct(tmp_path, patients=1, slices=(12, 12), seed=1)
    generate_chest_ct(tmp_path, patients=1, slices=(10, 10), seed=2)
    assert ecvl.read(tmp_path / "scans" / "patient-001").array.shape[0] == 10


def test_pipeline_gives_equal_small_images_and_keeps_the_nodules(pairs):
    pipeline = ecvl.Pipeline(PIPELINE)
    for volume, mask in pairs:
        image, moved, _ = pipeline.apply(volume, mask)
        assert image.array.shape == moved.array.shape == (volume.array.shape[0], 96, 112)
        assert image.array.min() >= 0
        assert image.array.max() <= 1
        before = mask.array.sum() * np.prod(mask.spacing)
        assert moved.array.sum() * np.prod(moved.spacing) == pytest.approx(before, rel=0.1)
        # What is marked is brighter than the lung around it.
        around = ndimage.binary_dilation(moved.array, iterations=4) & (moved.array == 0)
        assert image.array[moved.array > 0].mean() > image.array[around].mean() + 0.1


def lung_region(volume: np.ndarray) -> np.ndarray:
    """Both lungs with the vessels and nodules in them: enclosed air, closed over what touches the wall."""
    air = volume < -400
    outside = np.zeros_like(air)
    for plane, outer in zip(air, outside, strict=True):
        labels, _ = ndimage.label(plane)
        border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        outer[...] = np.isin(labels, border[border > 0])
    lungs = air & ~outside
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 6)
    return np.stack([ndimage.binary_fill_holes(ndimage.binary_closing(plane, ball)) for plane in lungs])


def test_threshold_and_components_do_not_solve_it(pairs):
    """The best of many thresholds inside the lungs, with the best number of largest 3D components kept.

    Both are chosen on the very images that are scored, which favours them.
    """
    cases = [(volume.array, mask.array > 0, lung_region(volume.array)) for volume, mask in pairs]
    scores = {}
    for threshold in range(-700, 51, 75):
        for opened in (0, 1):
            found = []
            for volume, _, lungs in cases:
                bright = (volume > threshold) & lungs
                if opened:
                    bright = ndimage.binary_opening(bright, np.ones((1, 3, 3)))
                labels, count = ndimage.label(bright)
                found.append(
                    (labels, np.argsort(np.bincount(labels.ravel(), minlength=count + 1)[1:])[::-1] + 1)
                )
            for kept in (1, 2, 3, 4, 6, 10, 20, 1000):
                overlap = total = 0
                for (labels, order), (_, mask, _) in zip(found, cases, strict=True):
                    guess = np.isin(labels, order[:kept])
                    overlap += 2 * (guess & mask).sum()
                    total += guess.sum() + mask.sum()
                scores[threshold, opened, kept] = overlap / total
    best = max(scores.values())
    assert 0.05 < best < 0.6, max(scores, key=scores.get)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DhhpcError, match="cannot be written"):
        generate_chest_ct(tmp_path / "file", patients=1)
