"""Samples cut into tiles and classified by their masks, against counts on the files."""

import nibabel
import numpy as np
import PIL.Image
import pytest
import yaml

from dhhpc.data import ShardSet, preprocess, read_preprocess
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World


def run(root, **changes):
    """Preprocess with changed keys of preprocess.yml; returns the shards."""
    path = root / "preprocess.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    preprocess(read_preprocess(path), World())
    return ShardSet(root / "shards", verify=True)


def test_tiles_lie_row_by_row_and_are_of_the_class_of_their_mask(volumes):
    root = volumes(3, depth=2)
    shards = run(root, tiles=[8, 4], classify={"least_pixels": 6}, deidentify=False)
    assert (shards.task, shards.classes, shards.target_channels) == (
        "classification",
        ["background", "nodule"],
        2,
    )
    assert shards.sample_shape == (1, 8, 4)
    assert shards.count("training") == 2 * 2 * 8
    images, labels, _ = shards.read("training", range(32))
    places = [tuple(map(int, name.split("/")[1:])) for name in shards.identifiers("training")]
    assert places == [(depth, tile) for depth in (0, 1) for tile in range(8)] * 2
    counts = []
    for sample, (depth, tile) in enumerate(places):
        rows, columns = (slice(tile // 4 * 8, tile // 4 * 8 + 8), slice(tile % 4 * 4, tile % 4 * 4 + 4))
        scan, mask = (
            nibabel.load(root / f"{kind}{sample // 16}.nii.gz").get_fdata()[:, :, depth].T[rows, columns]
            for kind in ("scan", "mask")
        )
        np.testing.assert_allclose(images[sample, 0], np.clip(scan / 1000 + 0.5, 0, 1), atol=1e-6)
        counts.append(int(mask.sum()))
        assert labels[sample].tolist() == ([0, 1] if counts[-1] >= 6 else [1, 0])
    assert {0, 3, 6} < set(counts)  # none, too few, just enough


def test_the_class_with_most_pixels_counts_if_it_has_enough(tmp_path):
    masks = np.zeros((4, 4, 6), np.uint8)
    masks[0, 0, :5] = 2  # five of the second class against three of the first
    masks[0, 1, :3] = 1
    masks[1, :2, :2] = 1  # four of each: the first
    masks[1, 2:, 2:4] = 2
    masks[2, 0, :3] = 2  # three are too few
    for number, mask in enumerate(masks):
        PIL.Image.fromarray(mask * 40).save(tmp_path / f"{number}.png")
        PIL.Image.fromarray(mask).save(tmp_path / f"mask-{number}.png")
    images = [{"location": f"{number}.png", "label": f"mask-{number}.png"} for number in range(4)]
    dataset = {"name": "cells", "classes": ["background", "round", "long"], "images": images}
    (tmp_path / "dataset.yml").write_text(yaml.safe_dump(dataset | {"split": {"training": [0, 1, 2, 3]}}))
    (tmp_path / "preprocess.yml").write_text("dataset: dataset.yml\noutput: shards\n")
    shards = run(tmp_path, classify={"least_pixels": 4})
    assert shards.classes == ["background", "round", "long"]
    assert shards.labels("training").tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    # Another threshold is another recipe: no shard of the first is kept.
    assert run(tmp_path, classify={"least_pixels": 3}).labels("training")[2].tolist() == [0, 0, 1]
    # Tiles of whole images are numbered too, and masks stay masks without `classify`.
    tiles = run(tmp_path, tiles=[2, 6], classify=None)
    assert tiles.task == "segmentation"
    np.testing.assert_array_equal(tiles.read("training", range(8))[1], masks.reshape(8, 2, 6))


def test_background_is_thinned_in_training_only(volumes):
    root = volumes(6, depth=2)
    whole = run(root, tiles=[8, 8], classify={"least_pixels": 1})
    thinned = run(root, keep_empty=0.0)
    filled = int(whole.labels("training")[:, 1].sum())
    assert 0 < filled == thinned.count("training") < whole.count("training")
    assert thinned.labels("training")[:, 1].all()
    np.testing.assert_array_equal(thinned.labels("test"), whole.labels("test"))


def test_refusals_name_the_file_and_the_mend(volumes, photographs):
    with pytest.raises(
        DhhpcError, match=r"scan0\.nii\.gz: tiles of 8 x 5 do not divide images of 16 x 16; .*"
    ):
        run(volumes(3), tiles=[8, 5])
    root = photographs()
    for name, value in (("tiles", [4, 5]), ("classify", {"least_pixels": 1})):
        refused = rf"dataset\.yml: labels whole images, and `{name}` .* needs masks; leave `{name}` out"
        with pytest.raises(DhhpcError, match=refused):
            run(root, **{"tiles": None, "classify": None} | {name: value})
