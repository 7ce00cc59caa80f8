"""Geometry, checked against PyTorch, SciPy and positions computed by hand; masks stay in step with images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dhhpc.ecvl import Image, Pipeline, geometry
from dhhpc.errors import DhhpcError

RNG = np.random.default_rng(0)
LAYOUTS = ["yx", "yxc", "zyx", "zyxc", "cyx"]


def shape_of(channels: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[axis] for axis in channels)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Blocks of labels, of any layout and small size, with a spacing and a place in the patient."""
    channels = draw(st.sampled_from(LAYOUTS))
    sizes = {axis: draw(st.integers(1, 12)) for axis in "zyx"} | {"c": draw(st.integers(1, 3))}
    seed = draw(st.integers(0, 2**16))
    array = np.random.default_rng(seed).integers(0, 4, shape_of(channels, sizes)).astype(np.uint8)
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 1.7, 3.0])) for axis in channels if axis != "c")
    named = dict(zip([axis for axis in channels if axis != "c"], spacing, strict=True))
    affine = np.diag([*[named.get(axis, 1.0) for axis in "xyz"], 1.0])
    affine[:3, 3] = [5, -7, 11]
    return Image(array, channels, "none", spacing, {"affine": affine})


STEPS = st.one_of(
    st.fixed_dictionaries(
        {"name": st.just("resize"), "size": st.lists(st.integers(1, 20), min_size=2, max_size=2)}
    ),
    st.fixed_dictionaries(
        {"name": st.just("resample"), "spacing": st.lists(st.floats(0.4, 4), min_size=2, max_size=2)}
    ),
    st.fixed_dictionaries({"name": st.just("flip"), "axes": st.sampled_from(["x", "y", "yx"])}),
    st.fixed_dictionaries({"name": st.just("rotate"), "degrees": st.floats(-180, 180)}),
    st.fixed_dictionaries({"name": st.just("rotate90"), "times": st.integers(-3, 5)}),
    st.fixed_dictionaries(
        {"name": st.just("crop"), "size": st.lists(st.integers(1, 9), min_size=2, max_size=2)}
    ),
    st.fixed_dictionaries({"name": st.just("pad"), "multiple": st.integers(1, 8)}),
    st.fixed_dictionaries(
        {"name": st.just("crop_or_pad"), "size": st.lists(st.integers(1, 20), min_size=2, max_size=2)}
    ),
)


@settings(max_examples=150, deadline=None)
@given(image=images(), steps=st.lists(STEPS, min_size=1, max_size=3))
def test_mask_stays_in_step_with_the_image(image, steps):
    """An image that is its own mask, moved by nearest neighbour, stays its own mask."""
    nearest = [step | {"interpolation": "nearest"} if interpolates(step) else step for step in steps]
    moved, mask, region = Pipeline(nearest).apply(image, image, image)
    assert np.array_equal(moved.array, mask.array)
    assert np.array_equal(moved.array, region.array)
    assert mask.array.dtype == image.array.dtype
    assert set(np.unique(mask.array)) <= {0, *np.unique(image.array)}
    assert moved.spacing == mask.spacing


def interpolates(step: dict[str, object]) -> bool:
    return step["name"] in ("resize", "resample", "rotate")


@settings(max_examples=60, deadline=None)
@given(image=images(), steps=st.lists(STEPS, min_size=1, max_size=3))
def test_mask_has_the_size_of_the_linearly_moved_image(image, steps):
    moved, mask, _ = Pipeline(steps).apply(image.copy_with(image.array.astype(np.float32)), image)
    assert moved.array.shape == mask.array.shape


@settings(max_examples=60, deadline=None)
@given(image=images(), step=STEPS)
def test_affine_follows_the_voxels(image, step):
    """A field that is linear in the patient stays so: each moved voxel holds the value of its place."""
    if not {"y", "x"} <= set(image.channels) or min(image.size("y"), image.size("x")) < 4:
        return
    coordinates = np.meshgrid(*[np.arange(image.size(axis)) for axis in "zyx"], indexing="ij")
    place = np.tensordot(
        image.metadata["affine"][:3], [*coordinates[::-1], np.ones_like(coordinates[0])], axes=1
    )
    field = (place * np.array([1.0, 10.0, 100.0]).reshape(3, 1, 1, 1)).sum(axis=0)
    source = Image(field.astype(np.float32), "zyx", "gray", spacing_of(image), dict(image.metadata))
    fill = {"fill": -1e6} if step["name"] in ("rotate", "pad", "crop_or_pad") else {}
    moved, _, _ = Pipeline([step | fill]).apply(source)
    for z, y, x in [(0, moved.size("y") // 2, moved.size("x") // 2)]:
        value = moved.array[z, y, x]
        where = moved.metadata["affine"] @ [x, y, z, 1]
        old = np.linalg.solve(image.metadata["affine"], where)[:3]
        inside = all(0 <= old[axis] <= source.size("xyz"[axis]) - 1 for axis in range(2))
        if inside:
            assert value == pytest.approx(float(where[:3] @ [1, 10, 100]), rel=1e-3, abs=0.5)


def spacing_of(image: Image) -> tuple[float, float, float]:
    return tuple(image.spacing_along(axis) or 1.0 for axis in "zyx")


@pytest.mark.parametrize("channels", LAYOUTS)
@pytest.mark.parametrize("size", [(9, 7), (20, 31), (5, 40)])
def test_linear_resize_is_pytorch_interpolation(channels, size):
    sizes = {"z": 3, "y": 10, "x": 13, "c": 2}
    array = RNG.normal(size=shape_of(channels, sizes)).astype(np.float32)
    result = geometry.resize(Image(array, channels, "none"), size)
    layered = Image(array, channels, "none").array_as("zcyx")
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(layered.copy()), size, mode="bilinear"
    ).numpy()
    assert result.array_as("zcyx") == pytest.approx(expected, abs=2e-5)


def test_linear_resize_along_z_is_pytorch_interpolation():
    array = RNG.normal(size=(5, 8, 9)).astype(np.float32)
    result = geometry.resize(Image(array, "zyx"), (11, 6, 12)).array
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None, None], (11, 6, 12), mode="trilinear"
    )
    assert result == pytest.approx(expected[0, 0].numpy(), abs=2e-5)


@pytest.mark.parametrize("size", [(4, 9), (17, 3), (10, 10)])
def test_nearest_resize_is_pytorch_nearest_exact(size):
    array = RNG.integers(0, 5, (7, 11)).astype(np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None, None], size, mode="nearest-exact"
    )
    assert np.array_equal(geometry.resize(Image(array, "yx"), size, "nearest").array, expected[0, 0].numpy())


def test_area_resize_averages_blocks():
    array = RNG.normal(size=(8, 12)).astype(np.float32)
    result = geometry.resize(Image(array, "yx"), (4, 4), "area").array
    assert result == pytest.approx(array.reshape(4, 2, 4, 3).mean(axis=(1, 3)), abs=1e-6)


def test_resample_keeps_the_field_of_view():
    image = Image(
        np.zeros((10, 100, 80), np.float32), "zyx", spacing=(2.5, 0.7, 0.9), metadata={"affine": np.eye(4)}
    )
    result = geometry.resample(image, (1.0, 1.0))
    assert result.array.shape == (10, 70, 72)
    assert result.spacing == pytest.approx((2.5, 1.0, 1.0))
    result = geometry.resample(image, (2.0, 1.1, 1.1))
    assert result.array.shape == (13, 64, 65)  # 25, 70 and 72 mm
    assert result.spacing == pytest.approx((25 / 13, 70 / 64, 72 / 65))
    with pytest.raises(DhhpcError, match="does not tell its spacing"):
        geometry.resample(Image(np.zeros((3, 3)), "yx"), (1.0, 1.0))


def test_resampled_ball_keeps_its_volume_and_place():
    """A ball on a grid of 2.5 x 1 x 0.8 mm has the same volume and centre in mm on a grid of 1.5 mm."""
    z, y, x = (np.arange(count) * step for count, step in ((24, 2.5), (60, 1.0), (75, 0.8)))
    ball = ((z[:, None, None] - 30) ** 2 + (y[:, None] - 28) ** 2 + (x - 25) ** 2 < 15**2).astype(np.uint8)
    affine = np.diag([0.8, 1.0, 2.5, 1.0])
    image = Image(ball, "zyx", "none", (2.5, 1.0, 0.8), {"affine": affine})
    _, mask, _ = Pipeline([{"name": "resample", "spacing": [1.5, 1.5, 1.5]}]).apply(image, image)
    assert mask.array.sum() * np.prod(mask.spacing) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.03)
    centre = np.append(np.argwhere(mask.array).mean(axis=0)[::-1], 1)
    assert (mask.metadata["affine"] @ centre)[:3] == pytest.approx([25, 28, 30], abs=0.35)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("channels", LAYOUTS)
def test_right_angles_turn_counter_clockwise(degrees, channels):
    array = RNG.integers(0, 255, shape_of(channels, {"z": 2, "y": 7, "x": 7, "c": 3})).astype(np.uint8)
    image = Image(array, channels, "none")
    axes = (channels.index("y"), channels.index("x"))
    expected = np.rot90(array, degrees // 90, axes)
    assert np.array_equal(geometry.rotate(image, degrees, "nearest").array, expected)
    assert np.array_equal(geometry.rotate90(image, degrees // 90).array, expected)


def test_any_angle_is_scipy_rotation():
    array = ndimage.gaussian_filter(RNG.normal(size=(40, 50)), 3).astype(np.float32)
    result = geometry.rotate(Image(array, "yx"), 33.0).array
    expected = ndimage.rotate(array, 33.0, reshape=False, order=1)
    inside = ndimage.rotate(np.ones_like(array), 33.0, reshape=False, order=1) > 0.99
    assert np.abs(result - expected)[inside].max() < 0.02 * np.abs(array).max()


def test_rotation_is_one_in_millimetres():
    """A bar of 40 x 4 mm along x, on pixels of 1 x 0.5 mm, is as long when it is turned upright."""
    array = np.zeros((61, 121), np.uint8)
    array[28:33, 20:101] = 1
    result = geometry.rotate(Image(array, "yx", spacing=(1.0, 0.5)), 90, "nearest").array
    rows, columns = np.argwhere(result).T
    assert np.ptp(rows) * 1.0 == pytest.approx(40, abs=1)
    assert np.ptp(columns) * 0.5 == pytest.approx(4, abs=1)


def test_outside_is_filled():
    result = geometry.rotate(Image(np.zeros((9, 9), np.float32), "yx"), 45, fill=-1024).array
    assert result[0, 0] == -1024
    assert result[4, 4] == 0
    padded = geometry.pad(Image(np.ones((2, 3), np.int16), "yx"), (4, 4), fill=-5).array
    assert padded.tolist() == [[-5] * 4, [1, 1, 1, -5], [1, 1, 1, -5], [-5] * 4]


def test_quarter_turn_swaps_spacing():
    image = Image(np.zeros((2, 3, 4), np.uint8), "zyx", spacing=(5, 2, 1))
    assert geometry.rotate90(image, 1).spacing == (5, 1, 2)
    assert geometry.rotate90(image, 2).spacing == (5, 2, 1)


def test_flip_crop_and_pad_by_hand():
    array = np.arange(12).reshape(3, 4)
    image = Image(array, "yx")
    assert np.array_equal(geometry.flip(image, "x").array, array[:, ::-1])
    assert np.array_equal(geometry.flip(image, "yx").array, array[::-1, ::-1])
    assert geometry.crop(image, (1, 2)).array.tolist() == [[5, 6]]
    assert geometry.crop(image, (9, 2)).array.tolist() == array[:, 1:3].tolist()
    assert geometry.pad(image, (2, 2)).array.tolist() == array.tolist()
    assert geometry.crop_or_pad(image, (1, 6), -1).array.tolist() == [[-1, 4, 5, 6, 7, -1]]
    assert geometry.pad_to_multiple(image, 4).array.shape == (4, 4)
    assert geometry.pad_to_multiple(image, 1).array.shape == (3, 4)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64, np.uint32, np.float64, np.float16])
def test_dtypes_foreign_to_opencv(dtype):
    array = RNG.integers(0, 2, (6, 7)).astype(dtype)
    nearest = geometry.rotate(Image(array, "yx"), 180, "nearest").array
    assert nearest.dtype == dtype
    assert np.array_equal(nearest, array[::-1, ::-1])
    assert np.array_equal(geometry.resize(Image(array, "yx"), (12, 14), "nearest").array[::2, ::2], array)
    assert geometry.resize(Image(array, "yx"), (12, 14)).array.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda image: geometry.flip(image, "z"), "spatial axes 'yx'"),
        (lambda image: geometry.resize(image, (3, 3, 3)), "spatial axes 'yx'"),
        (lambda image: geometry.resize(image, (0, 3)), "sizes start at 1"),
        (lambda image: geometry.crop(image, (0, 3)), "sizes start at 1"),
        (lambda image: geometry.resample(image, (1, 0)), "above 0"),
    ],
)
def test_requests_that_do_not_fit(call, message):
    with pytest.raises(DhhpcError, match=message):
        call(Image(np.zeros((4, 4)), "yx", spacing=(1, 1)))
