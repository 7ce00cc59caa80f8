"""Preprocessing on one rank: what is in the shards, what is left out, what is refused, what a rerun does."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import yaml

from dhhpc import ecvl
from dhhpc.data import ShardSet, check_dataset, preprocess, read_dataset, read_preprocess
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World


def run(root, **changes):
    document = read_preprocess(root / "preprocess.yml")
    for key, value in changes.items():
        setattr(document, key, value)
    return preprocess(document, World())


def refusal(root, **changes):
    with pytest.raises(DhhpcError) as caught:
        run(root, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_samples_are_the_slices_after_the_pipeline(volumes):
    """Against nibabel and the formula of the window."""
    root = volumes(5, depth=3)
    summary = run(root)
    assert summary.samples == {"training": 12, "test": 3}
    assert (summary.written, summary.reused) == (3, 0)
    shards = ShardSet(root / "shards", verify=True)
    assert shards.sample_shape == (1, 16, 16)
    assert shards.classes == ["nodule"]
    images, masks, regions = shards.read("training", range(12))
    assert regions is None
    for sample in range(12):
        volume, depth = divmod(sample, 3)
        array = nibabel.load(root / f"scan{volume}.nii.gz").get_fdata()[:, :, depth].T
        np.testing.assert_allclose(images[sample, 0], np.clip(array / 1000 + 0.5, 0, 1), atol=1e-6)
        mask = np.asarray(nibabel.load(root / f"mask{volume}.nii.gz").dataobj)[:, :, depth].T
        np.testing.assert_array_equal(masks[sample], mask)
    ids = shards.identifiers("training")
    assert len(set(ids)) == 12
    assert [name.split("/")[1] for name in ids] == ["0", "1", "2"] * 4
    assert len({name.split("/")[0] for name in ids}) == 4


def test_geometry_moves_masks_in_step_as_ecvl_does(volumes):
    steps = [
        {"name": "resample", "spacing": [1.0, 0.7, 1.3]},
        {"name": "flip", "axes": "x"},
        {"name": "crop_or_pad", "size": [20, 14]},
        {"name": "normalize", "per_image": True},
    ]
    root = volumes(2, preprocess={"pipeline": steps, "dtype": "float16"})
    run(root)
    shards = ShardSet(root / "shards")
    images, masks, _ = shards.read("training", range(shards.count("training")))
    image, mask = (ecvl.read(root / f"{name}0.nii.gz") for name in ("scan", "mask"))
    image, mask, _ = ecvl.Pipeline(steps).apply(image, mask)
    np.testing.assert_array_equal(images[:, 0], image.array.astype(np.float16))
    np.testing.assert_array_equal(masks, mask.array)
    assert masks.any()


def test_color_images_and_class_labels(photographs):
    root = photographs(9)
    run(root)
    shards = ShardSet(root / "shards")
    assert shards.splits == ["training", "validation", "test"]
    assert shards.sample_shape == (3, 12, 10)
    assert shards.target_channels == 3
    images, labels, _ = shards.read("training", range(7))
    for index in range(7):
        expected = np.asarray(PIL.Image.open(root / f"photo{index}.png")).transpose(2, 0, 1)
        np.testing.assert_array_equal(images[index], expected)
    np.testing.assert_array_equal(labels, np.eye(3)[[0, 1, 2, 0, 1, 2, 0]])


def test_regions_and_images_without_one(tmp_path):
    """Gray images with a mask each; only the first has a region: the other's covers all of it."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 256, (6, 5)).astype(np.uint8) for name in ("a", "b")}
    region = (rng.random((6, 5)) < 0.5).astype(np.uint8) * 255
    for name, array in arrays.items():
        PIL.Image.fromarray(array).save(tmp_path / f"{name}.png")
        PIL.Image.fromarray((array > 128).astype(np.uint8) * 255).save(tmp_path / f"mask-{name}.png")
    PIL.Image.fromarray(region).save(tmp_path / "region.png")
    images = [{"location": f"{name}.png", "label": f"mask-{name}.png"} for name in arrays]
    images[0]["values"] = {"region": "region.png"}
    dataset = {"name": "r", "classes": ["vessel"], "images": images, "split": {"test": [0, 1]}}
    (tmp_path / "dataset.yml").write_text(yaml.safe_dump(dataset))
    (tmp_path / "preprocess.yml").write_text("dataset: dataset.yml\noutput: shards\n")
    run(tmp_path)
    images, masks, regions = ShardSet(tmp_path / "shards").read("test", [0, 1])
    np.testing.assert_array_equal(images[:, 0], np.stack(list(arrays.values())))
    np.testing.assert_array_equal(masks, np.stack([array > 128 for array in arrays.values()]))
    np.testing.assert_array_equal(regions, [region > 0, np.ones((6, 5))])


def test_empty_slices_are_thinned_in_training_only(volumes):
    root = volumes(6, depth=40)  # every second slice is empty
    run(root, keep_empty=0.0)
    shards = ShardSet(root / "shards")
    assert (shards.count("training"), shards.count("test")) == (4 * 20, 2 * 40)
    assert all(int(name.split("/")[1]) % 2 == 0 for name in shards.identifiers("training"))
    run(root, keep_empty=0.5)
    kept = ShardSet(root / "shards").count("training") - 80
    assert 18 < kept < 62  # 80 draws of 0.5: within 5 standard deviations
    run(root, keep_empty=0.5, images_per_shard=1)  # the choice is the image's own
    assert ShardSet(root / "shards").count("training") - 80 == kept


def test_a_damaged_image_stops_with_its_name(volumes):
    root = volumes(6)
    content = (root / "scan1.nii.gz").read_bytes()
    (root / "scan1.nii.gz").write_bytes(content[: len(content) // 2])
    assert str(root / "scan1.nii.gz") in refusal(root)
    assert not (root / "shards").exists()


def test_damaged_images_are_skipped_and_counted(volumes):
    root = volumes(6)
    run(root)
    before = contents(root / "shards")
    content = (root / "scan1.nii.gz").read_bytes()
    (root / "scan1.nii.gz").write_bytes(content[: len(content) // 2])
    lines = []
    document = read_preprocess(root / "preprocess.yml")
    document.on_error = "skip"
    summary = preprocess(document, World(), lambda done, total, line: lines.append(line))
    assert [line for line in lines if line.startswith(f"skipped {root / 'scan1.nii.gz'}: ")]
    assert summary.samples == {"training": 12, "test": 8}
    assert [image.location for image in summary.skipped] == ["image 1 of the dataset"]
    assert (summary.written, summary.reused) == (1, 2)
    # A rerun keeps the count, and `stop` does not take a shard with gaps for finished.
    assert preprocess(document, World()).skipped == summary.skipped
    assert "scan1.nii.gz" in refusal(root)
    (root / "scan1.nii.gz").write_bytes(content)
    assert run(root).skipped == []
    assert contents(root / "shards").keys() == before.keys()
    assert ShardSet(root / "shards").count("training") == 16


def test_all_images_damaged_is_a_failure(volumes):
    root = volumes(3)
    for path in root.glob("scan*"):
        path.write_bytes(b"nothing")
    assert "all 3 images were skipped" in refusal(root, on_error="skip")
    assert not (root / "shards" / "index.json").exists()


def test_a_mask_of_another_size_names_both_files_and_sizes(volumes):
    root = volumes(3)
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 15, 4), np.uint8), np.eye(4)), root / "mask1.nii.gz")
    message = refusal(root)
    assert all(part in message for part in ("mask1.nii.gz", "scan1.nii.gz", "4x15x16", "4x16x16"))


def test_other_refusals(volumes, photographs):
    root = volumes(3)
    assert "a volume of 4 slices; set `slices: true`" in refusal(root, slices=False)
    text = (root / "dataset.yml").read_text()
    (root / "dataset.yml").write_text(text.split("split:")[0])
    assert "no image is in a split; run `dhhpc dataset partition`" in refusal(root)
    (root / "dataset.yml").write_text(text.replace("label: mask1.nii.gz", "label: null"))
    assert "images.1 has no label" in refusal(root)
    (root / "dataset.yml").write_text(text.replace("- nodule", "- background"))
    assert "0 foreground classes" in refusal(root)
    (root / "dataset.yml").write_text(text)
    array = nibabel.Nifti1Image(np.zeros((16, 18, 4), np.float32), np.eye(4))
    for name in ("scan1", "mask1"):
        nibabel.save(array, root / f"{name}.nii.gz")
    message = refusal(root)  # inside a shard
    assert "scan1.nii.gz: gives samples of 1 x 18 x 16" in message
    assert "others have 1 x 16 x 16" in message
    message = refusal(root, images_per_shard=1)  # between shards
    assert "scan1.nii.gz: gives samples of 1 x 18 x 16" in message
    assert not (root / "shards" / "index.json").exists()
    (root / "preprocess.yml").write_text(
        "dataset: dataset.yml\noutput: shards\npipeline: [{name: window, centre: 1}]\n"
    )
    with pytest.raises(DhhpcError, match=r"preprocess\.yml:3: pipeline\.0\.\S*: .*"):
        read_preprocess(root / "preprocess.yml")


def test_a_rerun_makes_only_what_is_missing_stale_or_damaged(volumes):
    root = volumes(8, preprocess={"images_per_shard": 1})
    first = run(root)
    folder = root / "shards"
    before, index = contents(folder), (folder / "index.json").read_bytes()
    again = run(root)
    assert (again.written, again.reused, again.seconds) == (0, 8, first.seconds)
    assert (folder / "index.json").read_bytes() == index
    (folder / "training-00000.h5").unlink()
    damaged = bytearray(before["training-00001.h5"])
    (folder / "training-00001.h5").write_bytes(damaged[:-50])
    damaged[len(damaged) // 2] ^= 255
    (folder / "training-00002.h5").write_bytes(damaged)
    (folder / "training-00077.h5").write_bytes(b"of a larger dataset")
    (folder / ".training-00003.h5.4711.tmp").write_bytes(b"of a killed run")
    again = run(root)
    assert (again.written, again.reused) == (3, 5)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "index.json"])
    # Another pipeline makes all anew; a changed image its own shard.
    changed = run(root, pipeline=[{"name": "window", "center": 5, "width": 1000}])
    assert changed.written == 8
    assert run(root).written == 8
    assert contents(folder) == before
    array = nibabel.Nifti1Image(np.zeros((16, 16, 4), np.float32), np.eye(4))
    nibabel.save(array, root / "scan4.nii.gz")
    assert run(root).written == 1


def test_shards_of_another_dataset_are_not_replaced(volumes):
    root = volumes(2)
    run(root)
    before = contents(root / "shards")
    text = (root / "dataset.yml").read_text()
    (root / "dataset.yml").write_text(text.replace("name: lungs", "name: livers"))
    assert "holds the shards of dataset `lungs`, not of `livers`" in refusal(root)
    assert contents(root / "shards") == before


def test_the_index_tells_how_the_shards_were_made(volumes):
    root = volumes(4)
    summary = run(root)
    index = json.loads((root / "shards" / "index.json").read_text())
    assert index["schema_version"] == 1
    assert [(shard["file"], shard["split"], shard["samples"]) for shard in index["shards"]] == [
        ("training-00000.h5", "training", 8),
        ("training-00001.h5", "training", 4),
        ("test-00000.h5", "test", 4),
    ]
    assert index["pipeline"] == [{"name": "window", "center": 0.0, "width": 1000.0}]
    assert index["seconds"] == pytest.approx(summary.seconds, abs=1e-3)
    assert index["seconds"] > 0


@pytest.mark.real_data
def test_real_photographs_of_the_retina(tmp_path):
    folder = Path(os.environ.get("DHHPC_REAL_DATA", "/nonexistent")) / "drive"
    if not folder.is_dir():
        pytest.skip("DHHPC_REAL_DATA names no folder with drive/")
    from dhhpc.usecases.retina import prepare_retina

    root = prepare_retina(folder, tmp_path / "retina")
    dataset = read_dataset(root / "dataset.yml")
    assert check_dataset(dataset) == []
    document = read_preprocess(root / "preprocess.yml")
    preprocess(document, World())
    shards = ShardSet(root / document.output)
    assert shards.count("test") == 20
    _, masks, regions = shards.read("test", [0])
    vessels = masks[0][regions[0] > 0].mean()
    assert 0.05 < vessels < 0.2  # about an eighth of the field of view
