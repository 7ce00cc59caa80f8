"""Masks on the grid of the input: a network that thresholds, so the right mask is known."""

import numpy as np
import pytest

from dhhpc import ecvl, eddl
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.evaluation import evaluate
from dhhpc.training.prediction import predict, predict_mask
from tests import synthetic

SIZE = 32


def thresholding(channels: int = 1) -> eddl.Model:
    """Says foreground where the first channel is above 0.5."""
    x = eddl.Input((channels, SIZE, SIZE))
    model = eddl.Model([x], [eddl.Sigmoid(eddl.Conv2D(x, 1, 1, name="only"))])
    model.build()
    parameters = model.parameters()
    parameters["only.weight"][...] = 0
    parameters["only.weight"][0, 0] = 20
    parameters["only.bias"][...] = -10
    return model


def blocks(shape, seed=0) -> np.ndarray:
    """0 and 1 in blocks of 2 x 2, which nearest and area scaling by 2 keep."""
    coarse = np.random.default_rng(seed).integers(0, 2, (*shape[:-2], shape[-2] // 2, shape[-1] // 2))
    return coarse.repeat(2, axis=-2).repeat(2, axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"name": "flip", "axes": "y"}, {"name": "rotate90", "times": 1}],
        [{"name": "pad", "multiple": 16}],
        [{"name": "resize", "size": [SIZE, SIZE], "interpolation": "nearest"}],
        [
            {"name": "resample", "spacing": [0.5, 0.5], "interpolation": "nearest"},
            {"name": "pad", "size": [64, 64]},
        ],
        [{"name": "flip", "axes": "yx"}, {"name": "crop_or_pad", "size": [40, 48]}, {"name": "rotate90"}],
    ],
)
@pytest.mark.parametrize("volume", [False, True])
def test_a_mask_comes_back_through_the_geometric_steps(steps, volume):
    array = blocks((3, 16, 24) if volume else (16, 24))
    axes = "zyx" if volume else "yx"
    image = ecvl.Image(array * 1000 - 500, axes, spacing=(1.0,) * len(axes))
    window = {"name": "window", "center": 0, "width": 1000}
    mask = predict_mask(thresholding(), ecvl.Pipeline([window, *steps]), image, "image")
    assert mask.channels == axes
    assert mask.spacing == image.spacing
    assert mask.array.dtype == np.uint8
    np.testing.assert_array_equal(mask.array, array)


def test_what_was_cropped_away_is_background():
    array = np.ones((16, 16), np.float32)
    pipeline = ecvl.Pipeline([{"name": "crop", "size": [8, 8]}])
    mask = predict_mask(thresholding(), pipeline, ecvl.Image(array, "yx"), "image")
    expected = np.zeros((16, 16))
    expected[4:12, 4:12] = 1
    np.testing.assert_array_equal(mask.array, expected)


@pytest.fixture
def shards(tmp_path) -> ShardSet:
    images = blocks((3, 1, SIZE, SIZE))
    masks = images[:, 0].astype(np.uint8)
    return ShardSet(synthetic.write_shards(tmp_path / "shards", {"test": (images, masks, None)}, ["spot"]))


def test_files_volumes_and_shards(shards, tmp_path):
    flat, deep = blocks((20, 28), seed=1), blocks((4, 12, 14), seed=2)
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    ecvl.write(tmp_path / "flat.tif", ecvl.Image(flat, "yx"))
    volume = ecvl.Image(deep, "zyx", spacing=(2.0, 0.75, 0.5), metadata={"affine": affine})
    ecvl.write(tmp_path / "deep.nii.gz", volume)
    inputs = [tmp_path / "flat.tif", tmp_path / "deep.nii.gz", shards.folder]
    written = predict(thresholding(), shards, inputs, tmp_path / "out", World())
    names = ["flat_mask.png", "deep_mask.nii.gz", *(f"shards/test-{index}_mask.png" for index in range(3))]
    assert written == [tmp_path / "out" / name for name in names]
    np.testing.assert_array_equal(ecvl.read(written[0]).array_as("yx"), flat * 255)
    mask = ecvl.read(written[1])
    original = ecvl.read(tmp_path / "deep.nii.gz")
    np.testing.assert_array_equal(mask.array_as("zyx"), original.array_as("zyx"))
    np.testing.assert_allclose(mask.metadata["affine"], original.metadata["affine"])
    for index, path in enumerate(written[2:]):
        image = shards.read("test", [index])[0][0, 0]
        np.testing.assert_array_equal(ecvl.read(path).array_as("yx"), image * 255)


def test_bad_inputs(shards, tmp_path):
    color, other = tmp_path / "color.png", tmp_path / "elsewhere" / "color.png"
    other.parent.mkdir()
    for path in (color, other):
        ecvl.write(path, ecvl.Image(np.zeros((8, 8, 3), np.uint8), "yxc", color="rgb"))
    cases = {
        "3 channels after preprocessing where the network takes 1": [color],
        "no such file or folder": [tmp_path / "none.png"],
        "both would give color_mask.png": [color, other],
    }
    for part, inputs in cases.items():
        with pytest.raises(DhhpcError, match=part):
            predict(thresholding(), shards, inputs, tmp_path / "out", World())
    with pytest.raises(DhhpcError, match="no samples in split `validation`"):
        predict(thresholding(), shards, [shards.folder], tmp_path / "out", World(), split="validation")


@pytest.mark.mpi
def test_images_cut_over_the_ranks_give_the_masks_of_one(world, shared):
    """Of other sizes than the network's, which takes multiples of 8: by photograph, volume and shards."""
    x = eddl.Input((1, 24, 24))
    y = eddl.ConvTranspose2D(eddl.Conv2D(eddl.MaxPool2D(eddl.Conv2D(x, 4, 5), 2), 4, 3), 4, 2, 2)
    model = eddl.Model([x], [eddl.Sigmoid(eddl.Conv2D(y, 1, 1))])
    model.build(losses=["binary_cross_entropy+dice"], seed=5)
    inputs = [shared / "image.png", shared / "volume.nii.gz", shared / "shards"]
    if world.rank == 0:
        rng = np.random.default_rng(2)
        ecvl.write(inputs[0], ecvl.Image(rng.integers(0, 2, (45, 37), dtype=np.uint8), "yx"))
        ecvl.write(inputs[1], ecvl.Image(rng.normal(size=(3, 21, 30)).astype(np.float32), "zyx"))
        synthetic.write_discs(inputs[2], {"training": 2, "test": 3}, size=22)
    world.barrier()
    shards = ShardSet(inputs[2])
    written = predict(model, shards, inputs, shared / "together", world, spatial=True)
    assert len(written) == (5 if world.rank == 0 else 0)
    metrics = evaluate(model, shards, "test", world, spatial=True)
    assert metrics == pytest.approx(evaluate(model, shards, "test", World()), rel=1e-5)
    if world.rank == 0:
        for path, expected in zip(
            written, predict(model, shards, inputs, shared / "alone", World()), strict=True
        ):
            found, whole = ecvl.read(path).array, ecvl.read(expected).array
            assert path.name == expected.name
            assert 0 < np.count_nonzero(whole) < whole.size
            np.testing.assert_array_equal(found, whole)
