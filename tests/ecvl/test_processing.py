"""Intensity functions, checked by hand and against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage import color as skimage_color
from skimage import exposure

from dhhpc.ecvl import Image, processing
from dhhpc.errors import DhhpcError

RNG = np.random.default_rng(0)
SHAPES = {"yx": (6, 5), "yxc": (6, 5, 3), "zyx": (4, 6, 5), "cyx": (3, 6, 5)}


def test_window_by_hand():
    image = Image(np.array([[-2000.0, -1350.0, -975.0, 150.0, 900.0]]), "yx", metadata={"window_width": 1.0})
    windowed = processing.window(image, -600, 1500)
    assert windowed.array.dtype == np.float32
    assert windowed.array == pytest.approx(np.array([[0, 0, 0.25, 1, 1]]))
    assert "window_width" not in windowed.metadata
    assert image.array[0, 0] == -2000
    with pytest.raises(DhhpcError, match="width 0"):
        processing.window(image, 0, 0)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from(list(SHAPES)),
    data=st.data(),
    low=st.floats(0, 40),
    high=st.floats(60, 100),
)
def test_rescale_is_scikit_image_rescaling(channels, data, low, high):
    array = data.draw(arrays.arrays(np.int16, SHAPES[channels], elements=st.integers(-1000, 1000)))
    ends = tuple(np.percentile(array.astype(np.float32), [low, high]))
    result = processing.rescale(Image(array, channels, "none"), low, high).array
    if ends[1] > ends[0]:
        expected = exposure.rescale_intensity(array.astype(np.float64), in_range=ends, out_range=(0, 1))
        assert np.allclose(result, expected, atol=1e-6)
    else:
        assert set(np.unique(result)) <= {0, 1}


def test_normalize_by_number_and_by_channel():
    array = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    image = Image(array, "yxc", "rgb")
    assert processing.normalize(image, 2, 4).array == pytest.approx((array - 2.0) / 4)
    mean, deviation = [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]
    expected = (array - np.array(mean)) / np.array(deviation)
    assert processing.normalize(image, mean, deviation).array == pytest.approx(expected)
    first = Image(np.moveaxis(array, 2, 0), "cyx", "rgb")
    assert processing.normalize(first, mean, deviation).array == pytest.approx(np.moveaxis(expected, 2, 0))
    with pytest.raises(DhhpcError, match="2 numbers in mean for 3 channels"):
        processing.normalize(image, [1.0, 2.0], 1.0)


def test_standardize():
    result = processing.standardize(Image(RNG.normal(5, 3, (4, 6, 5)), "zyx")).array
    assert result.mean() == pytest.approx(0, abs=1e-6)
    assert result.std() == pytest.approx(1, abs=1e-6)
    assert (processing.standardize(Image(np.full((3, 3), 7), "yx")).array == 0).all()


def test_clip_keeps_the_dtype():
    result = processing.clip(Image(np.array([[-5, 0, 300]], dtype=np.int16), "yx"), -1, 255).array
    assert (result.dtype, result.tolist()) == (np.int16, [[-1, 0, 255]])


def test_grayscale_is_bt601():
    array = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    result = processing.grayscale(Image(array, "yxc", "rgb"))
    assert (result.channels, result.color, result.array.dtype) == ("yx", "gray", np.uint8)
    luma = skimage_color.rgb2ycbcr(array)[..., 0]  # 16..235 of the same luma
    assert np.abs((luma - 16) / 219 * 255 - result.array).max() < 0.6
    backwards = processing.grayscale(Image(array[..., ::-1].astype(np.float32), "yxc", "bgr")).array
    assert backwards == pytest.approx(array @ np.array([0.299, 0.587, 0.114]), abs=1e-4)
    assert processing.grayscale(result) is result
    with pytest.raises(DhhpcError, match="'none' image with 3 channels"):
        processing.grayscale(Image(array, "yxc", "none"))


def test_channels_by_index_and_name():
    array = RNG.integers(0, 256, (5, 4, 4), dtype=np.uint8)
    image = Image(array, "yxc", "rgba", (2, 1))
    assert np.array_equal(processing.select_channel(image, "green").array, array[..., 1])
    assert np.array_equal(processing.select_channel(image, 3).array, array[..., 3])
    assert processing.select_channel(image, 0).spacing == (2, 1)
    assert np.array_equal(
        processing.select_channel(Image(array[..., :3], "yxc", "bgr"), "red").array, array[..., 2]
    )
    for channel, message in ((4, "channels 0 to 3"), (-1, "channels 0 to 3")):
        with pytest.raises(DhhpcError, match=message):
            processing.select_channel(image, channel)
    with pytest.raises(DhhpcError, match="no channels to select"):
        processing.select_channel(Image(array[..., 0], "yx"), "green")
    with pytest.raises(DhhpcError, match="no such channel"):
        processing.select_channel(Image(array, "yxc", "none"), "green")


def test_equalize_flattens_the_histogram_of_each_slice():
    dark = np.clip(RNG.normal(0.1, 0.02, (2, 64, 64)), 0, 1).astype(np.float32)
    result = processing.equalize(Image(dark, "zyx"), clip_limit=40, tiles=1).array
    assert (result.dtype, result.shape) == (np.float32, dark.shape)
    for before, after in zip(dark, result, strict=True):
        # With one tile and no limit in reach, it is the cumulative histogram of the slice.
        levels = np.rint(before * 255).astype(np.int64)
        cumulative = np.cumsum(np.bincount(levels.ravel(), minlength=256)) / levels.size
        assert np.abs(after - cumulative[levels]).max() < 0.003
    levels = processing.equalize(Image((dark[0] * 255).astype(np.uint8), "yx")).array
    assert levels.dtype == np.uint8
    with pytest.raises(DhhpcError, match="int16 values; window the image"):
        processing.equalize(Image(np.zeros((4, 4), np.int16), "yx"))
