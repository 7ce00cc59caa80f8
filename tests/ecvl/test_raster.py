"""PNG, JPEG, BMP, PPM, PGM, TIFF and GIF, checked against Pillow, OpenCV and scikit-image."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage import io as skimage_io

from dhhpc import ecvl
from dhhpc.ecvl import Image
from dhhpc.errors import DhhpcError

GRAY = np.random.default_rng(0).integers(0, 256, (23, 31), dtype=np.uint8)
COLORS = np.random.default_rng(1).integers(0, 256, (23, 31, 3), dtype=np.uint8)
DEEP = np.random.default_rng(2).integers(0, 65536, (23, 31), dtype=np.uint16)


def image_of(array: np.ndarray) -> Image:
    return Image(array, "yx" if array.ndim == 2 else "yxc", "gray" if array.ndim == 2 else "rgb")


@pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "pgm", "tif", "tiff", "gif"])
def test_gray_is_kept_by_lossless_formats(tmp_path, extension):
    path = tmp_path / f"image.{extension}"
    ecvl.write(path, image_of(GRAY))
    read = ecvl.read(path)
    assert read.array.dtype == np.uint8
    assert (read.channels, read.color) == ("yx", "gray")
    assert np.array_equal(read.array, GRAY)
    assert np.array_equal(np.array(PIL.Image.open(path).convert("L")), GRAY)


@pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "tif"])
def test_color_is_kept_by_lossless_formats(tmp_path, extension):
    path = tmp_path / f"image.{extension}"
    ecvl.write(path, image_of(COLORS))
    read = ecvl.read(path)
    assert (read.channels, read.color) == ("yxc", "rgb")
    assert np.array_equal(read.array, COLORS)
    assert np.array_equal(skimage_io.imread(path), COLORS)


def test_jpeg_is_close_and_read_as_pillow_reads_it(tmp_path):
    smooth = cv2.GaussianBlur(COLORS, (0, 0), 4)
    ecvl.write(tmp_path / "image.jpg", image_of(smooth))
    read = ecvl.read(tmp_path / "image.jpg").array
    assert np.abs(read.astype(int) - smooth).mean() < 3
    assert np.array_equal(read, np.array(PIL.Image.open(tmp_path / "image.jpg")))


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_gray(tmp_path, extension):
    path = tmp_path / f"deep.{extension}"
    ecvl.write(path, image_of(DEEP))
    read = ecvl.read(path).array
    assert read.dtype == np.uint16
    assert np.array_equal(read, DEEP)
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), DEEP)


@pytest.mark.parametrize("extension", ["png", "tif", "ppm"])
def test_sixteen_bits_color_is_not_cut_to_eight(tmp_path, extension):
    deep = np.random.default_rng(3).integers(0, 65536, (9, 8, 3), dtype=np.uint16)
    path = tmp_path / f"deep.{extension}"
    assert cv2.imwrite(str(path), deep[..., ::-1])
    assert np.array_equal(ecvl.read(path).array, deep)
    ecvl.write(tmp_path / f"own.{extension}", image_of(deep))
    own = cv2.imread(str(tmp_path / f"own.{extension}"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(own[..., ::-1], deep)


def test_big_endian_tiff(tmp_path):
    content = bytearray(b"MM\0*" + (8).to_bytes(4, "big"))
    entries = [(256, 3, 2), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1)]
    entries += [(278, 3, 2), (279, 4, 8)]
    content += len(entries).to_bytes(2, "big")
    for tag, kind, value in entries:
        packed = value.to_bytes(2, "big") + b"\0\0" if kind == 3 else value.to_bytes(4, "big")
        content += tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big") + packed
    content += b"\0" * 4
    assert len(content) == 122
    content += np.array([[1, 256], [65535, 4]], dtype=">u2").tobytes()
    (tmp_path / "big.tif").write_bytes(content)
    assert np.array_equal(ecvl.read(tmp_path / "big.tif").array, [[1, 256], [65535, 4]])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_tiff_keeps_signed_and_float_values(tmp_path, dtype):
    array = (np.random.default_rng(4).normal(size=(7, 6)) * 1000).astype(dtype)
    ecvl.write(tmp_path / "values.tif", image_of(array))
    assert np.array_equal(ecvl.read(tmp_path / "values.tif").array, array)


def test_stack_of_pages_is_a_volume(tmp_path):
    volume = np.random.default_rng(5).integers(0, 65536, (5, 6, 7), dtype=np.uint16)
    ecvl.write(tmp_path / "stack.tif", Image(volume, "zyx"))
    read = ecvl.read(tmp_path / "stack.tif")
    assert read.channels == "zyx"
    assert np.array_equal(read.array, volume)
    assert np.array_equal(skimage_io.imread(tmp_path / "stack.tif"), volume)
    with pytest.raises(DhhpcError, match=r"stack\.png.*5 slices"):
        ecvl.write(tmp_path / "stack.png", Image(volume, "zyx"))


def test_bilevel_and_palette_masks_are_gray_levels(tmp_path):
    mask = GRAY > 128
    PIL.Image.fromarray(mask).save(tmp_path / "one.gif")
    PIL.Image.fromarray(mask).save(tmp_path / "one.png")
    palette = PIL.Image.fromarray(mask.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.gif")
    palette.save(tmp_path / "palette.png")
    for name in ("one.gif", "one.png", "palette.gif", "palette.png"):
        read = ecvl.read(tmp_path / name)
        assert (read.channels, read.array.dtype) == ("yx", np.uint8), name
        assert np.array_equal(read.array, mask * 255), name


def test_palette_of_colors_is_rgb(tmp_path):
    picture = PIL.Image.fromarray((GRAY > 128).astype(np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.save(tmp_path / "palette.gif")
    read = ecvl.read(tmp_path / "palette.gif")
    assert (read.channels, read.color) == ("yxc", "rgb")
    assert np.array_equal(read.array, np.where((GRAY > 128)[..., None], [200, 0, 0], [10, 20, 30]))


def test_gray_levels_stored_as_color_stay_color(tmp_path):
    PIL.Image.fromarray(np.stack([GRAY] * 3, -1)).save(tmp_path / "gray.png")
    assert ecvl.read(tmp_path / "gray.png").channels == "yxc"


def test_alpha_is_kept(tmp_path):
    array = np.random.default_rng(6).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    ecvl.write(tmp_path / "alpha.png", Image(array, "yxc", "rgba"))
    read = ecvl.read(tmp_path / "alpha.png")
    assert read.color == "rgba"
    assert np.array_equal(read.array, array)


def test_bgr_is_written_in_its_colors(tmp_path):
    ecvl.write(tmp_path / "image.png", Image(COLORS[..., ::-1], "yxc", "bgr"))
    assert np.array_equal(ecvl.read(tmp_path / "image.png").array, COLORS)


def test_channel_first_is_written(tmp_path):
    ecvl.write(tmp_path / "image.png", Image(np.moveaxis(COLORS, 2, 0), "cyx", "rgb"))
    assert np.array_equal(ecvl.read(tmp_path / "image.png").array, COLORS)


def test_masks_and_floats_are_shown(tmp_path):
    ecvl.write(tmp_path / "mask.png", Image(GRAY > 128, "yx", "none"))
    assert np.array_equal(ecvl.read(tmp_path / "mask.png").array, (GRAY > 128) * 255)
    values = np.array([[-1350.0, -600.0, 150.0, 3000.0]], dtype=np.float32)
    window = {"window_center": -600.0, "window_width": 1500.0}
    ecvl.write(tmp_path / "lung.png", Image(values, "yx", metadata=window))
    assert ecvl.read(tmp_path / "lung.png").array.tolist() == [[0, 128, 255, 255]]
    ecvl.write(tmp_path / "range.png", Image(np.array([[-1.0, 0.0, 4.0]]), "yx"))
    assert ecvl.read(tmp_path / "range.png").array.tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x.gif", COLORS, "without loss"),
        ("x.pgm", COLORS, "without loss"),
        ("x.jpg", np.zeros((4, 4, 4), np.uint8), "4 channels"),
        ("x.png", np.zeros((4, 4, 7), np.uint8), "7 channels"),
        ("x.pbm", GRAY, "read, not written"),
        ("x.xyz", GRAY, "no image format has the extension"),
        ("folder.png", GRAY, "cannot be written"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, array, message):
    path = tmp_path / name
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DhhpcError, match=message) as caught:
        ecvl.write(path, Image(array, "yx" if array.ndim == 2 else "yxc", "none"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.png"]


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "ppm", "pgm", "tif", "gif"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.4, 0.95])
def test_truncated_files_are_refused_in_one_line(tmp_path, extension, part):
    whole = tmp_path / f"whole.{extension}"
    ecvl.write(whole, image_of(GRAY))
    path = tmp_path / f"broken.{extension}"
    path.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    with pytest.raises(DhhpcError, match="copy it anew") as caught:
        ecvl.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_content_decides_before_the_extension(tmp_path):
    ecvl.write(tmp_path / "image.png", image_of(GRAY))
    (tmp_path / "image.dcm").write_bytes((tmp_path / "image.png").read_bytes())
    (tmp_path / "image").write_bytes((tmp_path / "image.png").read_bytes())
    assert np.array_equal(ecvl.read(tmp_path / "image.dcm").array, GRAY)
    assert np.array_equal(ecvl.read(tmp_path / "image").array, GRAY)


def test_missing_unknown_and_unreadable(tmp_path):
    with pytest.raises(DhhpcError, match=r"nothing\.png: no such file"):
        ecvl.read(tmp_path / "nothing.png")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DhhpcError, match=r"notes\.txt: not an image of a known format.*\.dcm"):
        ecvl.read(tmp_path / "notes.txt")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(DhhpcError, match=r"text\.png: no image can be recognised"):
        ecvl.read(tmp_path / "text.png")
    with pytest.raises(DhhpcError, match="empty list"):
        ecvl.read([])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=arrays.arrays(
        st.sampled_from([np.uint8, np.uint16]), st.tuples(st.integers(1, 12), st.integers(1, 12))
    ),
    extension=st.sampled_from(["png", "tif", "pgm"]),
)
def test_any_gray_image_comes_back(tmp_path, array, extension):
    path = tmp_path / f"image.{extension}"
    ecvl.write(path, image_of(array))
    read = ecvl.read(path).array
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


@pytest.mark.real_data
def test_drive():
    """The DRIVE retina images: RGB TIFF, GIF masks of vessels and field of view."""
    root = Path(os.environ.get("DHHPC_REAL_DATA", "")) / "drive" / "test"
    if "DHHPC_REAL_DATA" not in os.environ:
        pytest.skip("DHHPC_REAL_DATA does not name a folder of real images")
    image = ecvl.read(next((root / "images").glob("01_*.tif")))
    vessels = ecvl.read(next((root / "1st_manual").glob("01_*.gif")))
    field = ecvl.read(next((root / "mask").glob("01_*.gif")))
    assert (image.array.shape, image.channels, image.array.dtype) == ((584, 565, 3), "yxc", np.uint8)
    for mask in (vessels, field):
        assert (mask.array.shape, mask.channels) == ((584, 565), "yx")
        assert set(np.unique(mask.array)) == {0, 255}
    assert (vessels.array[field.array == 0] == 0).mean() > 0.999
    assert 0.05 < (vessels.array > 0).mean() < 0.15
    assert 0.6 < (field.array > 0).mean() < 0.75
    # The field of view is what the camera lit.
    assert image.array[field.array > 0].mean() > 4 * image.array[field.array == 0].mean()
