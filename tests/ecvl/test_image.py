"""The image's rules and its layouts."""

from __future__ import annotations

import numpy as np
import pytest

from dhhpc.ecvl import Image
from dhhpc.errors import DhhpcError


@pytest.mark.parametrize(
    ("shape", "channels", "changes"),
    [
        ((4, 5), "yxc", {}),
        ((4, 5), "yy", {}),
        ((4, 5), "yt", {}),
        ((4, 5), "zy", {}),
        ((4, 5), "yx", {"color": "green"}),
        ((4, 5), "yx", {"spacing": (1.0,)}),
        ((4, 5), "yx", {"spacing": (1.0, 0.0)}),
        ((4, 5), "yx", {"spacing": (1.0, float("nan"))}),
    ],
)
def test_contradictions_are_refused(shape, channels, changes):
    with pytest.raises(ValueError, match=r"channels|color|spacing"):
        Image(np.zeros(shape), channels, **changes)


def test_spatial_axes_and_spacing():
    image = Image(np.zeros((3, 4, 5, 2)), "zyxc", "none", (3, 1, 2))
    assert image.spatial_axes == "zyx"
    assert image.spatial_shape == (3, 4, 5)
    assert image.spacing_along("x") == 2.0
    assert image.spacing_along("c") is None
    assert image.size("c") == 2
    assert Image(np.zeros((4, 5)), "yx").size("z") == 1


def test_layouts():
    array = np.arange(24).reshape(2, 4, 3)
    image = Image(array, "yxc", "rgb")
    assert np.array_equal(image.array_as("cyx"), np.moveaxis(array, 2, 0))
    assert image.array_as("zcyx").shape == (1, 3, 2, 4)
    assert np.shares_memory(image.array_as("cyx"), array)
    assert np.array_equal(Image(array[..., :1], "yxc", "gray").array_as("xy"), array[..., 0].T)
    with pytest.raises(DhhpcError, match=r"'yxc'.*select a single channel"):
        image.array_as("yx")


def test_copy_does_not_share_metadata():
    image = Image(np.zeros((2, 2)), "yx", metadata={"format": "png"})
    copy = image.copy_with(np.ones((2, 2)))
    copy.metadata["format"] = "dicom"
    assert image.metadata == {"format": "png"}
    assert copy.channels == "yx"
