"""Pipelines: their YAML, and image, mask and region in step."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import yaml

from dhhpc.documents import Document, read_document
from dhhpc.ecvl import Image, Pipeline, Step, geometry, processing
from dhhpc.errors import DhhpcError

RNG = np.random.default_rng(0)


class Recipe(Document):
    pipeline: list[Step]


STEPS = """
pipeline:
  - {name: channel, select: green}
  - {name: clip, low: 0, high: 250}
  - {name: rescale}
  - {name: equalize, tiles: 2}
  - {name: resize, size: [20, 24]}
  - {name: rotate, degrees: 10}
  - {name: rotate90}
  - {name: flip, axes: y}
  - {name: crop, size: [20, 18]}
  - {name: pad, multiple: 8}
  - {name: crop_or_pad, size: [16, 16]}
  - {name: normalize, mean: 0.5, deviation: 0.25}
"""


def test_every_step_from_yaml_is_its_function(tmp_path):
    (tmp_path / "recipe.yml").write_text(STEPS)
    recipe = read_document(tmp_path / "recipe.yml", Recipe)
    array = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    mask = Image((array[..., 1] > 128).astype(np.uint8), "yx", "none")
    image, moved, region = Pipeline(recipe.pipeline).apply(Image(array, "yxc", "rgb"), mask, mask)
    expected = processing.select_channel(Image(array, "yxc", "rgb"), "green")
    expected = processing.equalize(processing.rescale(processing.clip(expected, 0, 250)), tiles=2)
    for interpolation, source, result in (("linear", expected, image), ("nearest", mask, moved)):
        source = geometry.resize(source, (20, 24), interpolation)
        source = geometry.rotate90(geometry.rotate(source, 10, interpolation))
        source = geometry.crop(geometry.flip(source, "y"), (20, 18))
        source = geometry.crop_or_pad(geometry.pad_to_multiple(source, 8), (16, 16))
        if interpolation == "linear":
            source = processing.normalize(source, 0.5, 0.25)
        assert np.array_equal(result.array, source.array)
    assert np.array_equal(region.array, moved.array)


def test_other_intensity_steps():
    volume = Image(RNG.normal(-500, 300, (3, 6, 5)), "zyx")
    windowed, _, _ = Pipeline([{"name": "window", "center": -600, "width": 1500}]).apply(volume)
    assert np.array_equal(windowed.array, processing.window(volume, -600, 1500).array)
    own, _, _ = Pipeline([{"name": "normalize", "per_image": True}]).apply(volume)
    assert np.array_equal(own.array, processing.standardize(volume).array)
    colors = Image(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8), "yxc", "rgb")
    gray, _, _ = Pipeline([{"name": "grayscale"}]).apply(colors)
    assert np.array_equal(gray.array, processing.grayscale(colors).array)


def test_pipeline_survives_yaml():
    pipeline = Pipeline(yaml.safe_load(STEPS)["pipeline"])
    assert Pipeline(yaml.safe_load(yaml.safe_dump(pipeline.model_dump(mode="json")))) == pipeline


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "windw", "center": 0, "width": 1}, "windw"),
        ({"name": "window", "centre": 0, "width": 1}, "centre"),
        ({"name": "window", "center": 0, "width": 0}, "greater than 0"),
        ({"name": "normalize"}, "both mean and deviation"),
        ({"name": "normalize", "mean": 0}, "both mean and deviation"),
        ({"name": "normalize", "mean": 0, "deviation": 1, "per_image": True}, "both mean and deviation"),
        ({"name": "normalize", "mean": 0, "deviation": 0}, "above 0"),
        ({"name": "pad"}, "either size or multiple"),
        ({"name": "pad", "size": [4, 4], "multiple": 2}, "either size or multiple"),
        ({"name": "resize", "size": [4]}, "at least 2"),
        ({"name": "flip", "axes": "c"}, "pattern"),
        ({"name": "channel", "select": "violet"}, "violet"),
    ],
)
def test_wrong_steps_are_refused(step, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        Pipeline([step])


def test_wrong_key_names_its_line_and_the_right_key(tmp_path):
    (tmp_path / "recipe.yml").write_text(
        "pipeline:\n  - {name: flip, axes: y}\n  - {name: window,\n     centre: 0, width: 1}\n"
    )
    with pytest.raises(DhhpcError, match=r"recipe\.yml:4: .*did you mean `center`"):
        read_document(tmp_path / "recipe.yml", Recipe)


def test_mask_takes_the_spacing_of_its_image():
    image = Image(np.zeros((10, 20), np.float32), "yx", spacing=(1.0, 0.5))
    mask = Image(np.zeros((10, 20), np.uint8), "yx", "none")
    moved, mask, _ = Pipeline([{"name": "resample", "spacing": [0.5, 0.5]}]).apply(image, mask)
    assert moved.array.shape == mask.array.shape == (20, 20)


def test_single_slice_volume_as_mask_of_an_image():
    image = Image(np.zeros((4, 5), np.float32), "yx")
    _, mask, _ = Pipeline([]).apply(image, Image(np.ones((1, 4, 5), np.uint8), "zyx", "none"))
    assert (mask.channels, mask.array.shape) == ("yx", (4, 5))


@pytest.mark.parametrize(("role", "shape"), [("mask", (4, 6)), ("region", (5, 4)), ("mask", (2, 4, 5))])
def test_mask_of_another_size_is_refused(role, shape):
    image = Image(np.zeros((4, 5)), "yx")
    other = Image(np.zeros(shape, np.uint8), "zyx"[-len(shape) :], "none")
    with pytest.raises(
        DhhpcError, match=f"the {role} has size {'x'.join(map(str, shape))} and its image 4x5"
    ):
        Pipeline([]).apply(image, **{role: other})
