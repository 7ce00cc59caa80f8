"""DICOM, checked against pydicom used directly and against positions computed by hand."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless, generate_uid

from dhhpc import ecvl
from dhhpc.ecvl import Image
from dhhpc.errors import DhhpcError


def refused(location, match: str) -> str:
    with pytest.raises(DhhpcError, match=match) as caught:
        ecvl.read(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_series_is_sorted_by_position_and_in_hounsfield_units(series):
    folder, stored = series
    volume = ecvl.read(folder)
    assert (volume.channels, volume.array.dtype) == ("zyx", np.float32)
    assert np.array_equal(volume.array, stored.astype(np.float32) - 1024)
    assert volume.spacing == pytest.approx((2.5, 0.8, 0.7))
    # Voxel (x, y, z) = (10, 8, 5) in LPS by PS3.3 C.7.6.2.1.1, then RAS.
    place = volume.metadata["affine"] @ [10, 8, 5, 1]
    assert place[:3] == pytest.approx([20 - 10 * 0.7, 30 - 8 * 0.8, 100 + 5 * 2.5])
    assert volume.metadata["modality"] == "CT"
    assert volume.metadata["dicom"].PatientID == "4711"
    assert "PixelData" not in volume.metadata["dicom"]


def test_unknown_spacing_stays_unknown(tmp_path, make_slice):
    for index in range(3):
        dataset = make_slice(np.zeros((4, 5), np.uint16), (0, 0, 2.0 * index), PixelSpacing=None)
        dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    volume = ecvl.read(tmp_path)
    assert volume.array.shape == (3, 4, 5)
    assert volume.spacing is None
    assert "affine" not in volume.metadata


def test_list_of_files_in_any_order(series):
    folder, stored = series
    paths = sorted(folder.iterdir(), reverse=True)
    assert np.array_equal(ecvl.read(paths).array, stored.astype(np.float32) - 1024)
    assert ecvl.read(paths[:1]).channels == "yx"


def test_z_runs_along_the_normal_of_oblique_slices(tmp_path, make_slice):
    """Coronal slices: rows to the left, columns downwards, so the normal points to the back."""
    stored = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(np.uint16)
    for index, name in ((0, "b"), (1, "c"), (2, "a")):
        dataset = make_slice(
            stored[index], (0, 10.0 + 2 * index, 0), ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
        )
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    volume = ecvl.read(tmp_path)
    assert np.array_equal(volume.array, stored.astype(np.float32) - 1024)
    assert volume.spacing == pytest.approx((2, 0.8, 0.7))
    assert (volume.metadata["affine"] @ [1, 2, 2, 1])[:3] == pytest.approx([-0.7, -14, -1.6])


def test_nifti_mask_of_a_coronal_series_is_turned_to_it(tmp_path, make_slice):
    stored = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(np.uint16)
    (tmp_path / "scan").mkdir()
    for index in range(3):
        dataset = make_slice(stored[index], (0, 2.0 * index, 0), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
        dataset.save_as(tmp_path / "scan" / f"{index}.dcm", enforce_file_format=True)
    volume = ecvl.read(tmp_path / "scan")
    mask = volume.copy_with((volume.array > -1000).astype(np.uint8), color="none")
    ecvl.write(tmp_path / "mask.nii.gz", mask)
    read = ecvl.read(tmp_path / "mask.nii.gz")
    assert read.array.shape == (4, 3, 5)
    _, turned, _ = ecvl.Pipeline([]).apply(volume, read)
    assert np.array_equal(turned.array, mask.array)


def test_single_file_keeps_window_and_spacing(tmp_path, make_slice):
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4)
    path = tmp_path / "slice.dcm"
    make_slice(stored, (0, 0, 0), WindowCenter=[40, -600], WindowWidth=[400, 1500]).save_as(
        path, enforce_file_format=True
    )
    image = ecvl.read(path)
    assert (image.channels, image.spacing) == ("yx", (0.8, 0.7))
    assert (image.metadata["window_center"], image.metadata["window_width"]) == (40, 400)
    assert np.array_equal(image.array, stored.astype(np.float32) - 1024)


def test_signed_values_and_slope(tmp_path, make_slice):
    stored = np.array([[-5, 0], [7, 32767]], dtype=np.int16)
    path = tmp_path / "slice.dcm"
    make_slice(stored, (0, 0, 0), RescaleSlope="0.5", RescaleIntercept="3").save_as(
        path, enforce_file_format=True
    )
    assert ecvl.read(path).array.tolist() == [[0.5, 3], [6.5, 16386.5]]


@pytest.mark.parametrize(("dtype", "bits", "top"), [(np.uint16, 12, 4095), (np.int16, 16, -1)])
def test_monochrome1_is_inverted(tmp_path, make_slice, dtype, bits, top):
    stored = np.array([[0, 1], [2, 1000]], dtype=dtype)
    dataset = make_slice(
        stored, (0, 0, 0), Modality="DX", PhotometricInterpretation="MONOCHROME1", BitsStored=bits,
        HighBit=bits - 1, RescaleSlope=None, RescaleIntercept=None,
    )  # fmt: skip
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert ecvl.read(tmp_path / "x.dcm").array.tolist() == [[top, top - 1], [top - 2, top - 1000]]


def test_hounsfield_units_are_a_measurement_whatever_the_display(tmp_path, make_slice):
    stored = np.array([[0, 1024]], dtype=np.uint16)
    make_slice(stored, (0, 0, 0), PhotometricInterpretation="MONOCHROME1").save_as(
        tmp_path / "x.dcm", enforce_file_format=True
    )
    assert ecvl.read(tmp_path / "x.dcm").array.tolist() == [[-1024, 0]]


def test_color_palette_and_frames(tmp_path, make_slice):
    colors = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    dataset = make_slice(colors, (0, 0, 0), SamplesPerPixel=3, PhotometricInterpretation="RGB", Modality="OT")
    dataset.PlanarConfiguration = 0
    dataset.save_as(tmp_path / "rgb.dcm", enforce_file_format=True)
    image = ecvl.read(tmp_path / "rgb.dcm")
    assert (image.channels, image.color) == ("yxc", "rgb")
    assert np.array_equal(image.array, colors)

    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    dataset = make_slice(frames[0], (0, 0, 0), Modality="US", PixelData=frames.tobytes(), RescaleIntercept=0)
    dataset.NumberOfFrames = 5
    dataset.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    image = ecvl.read(tmp_path / "frames.dcm")
    assert (image.channels, image.spacing) == ("zyx", (2.5, 0.8, 0.7))
    assert np.array_equal(image.array, frames)


def test_compressed_pixels(tmp_path, make_slice):
    stored = np.random.default_rng(0).integers(0, 4000, (16, 16)).astype(np.uint16)
    dataset = make_slice(stored, (0, 0, 0))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    assert np.array_equal(ecvl.read(tmp_path / "rle.dcm").array, stored.astype(np.float32) - 1024)


def test_file_without_preamble(tmp_path, make_slice):
    stored = np.arange(6, dtype=np.uint16).reshape(2, 3)
    dataset = make_slice(stored, (0, 0, 0))
    dataset.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    content = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[132:])
    assert np.array_equal(ecvl.read(tmp_path / "bare.dcm").array, stored.astype(np.float32) - 1024)


@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.6, 0.97])
def test_truncated_file_is_named(series, part):
    folder, _ = series
    path = folder / "d.dcm"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    for location in (path, folder):
        assert refused(location, "truncated|not a DICOM file|empty").startswith(f"{path}: ")


def test_missing_slice(series):
    folder, _ = series
    (folder / "f.dcm").unlink()  # third by position, between b and a
    message = refused(folder, "a slice is missing")
    assert message.startswith(f"{folder / 'a.dcm'}: lies 5 mm after b.dcm")


def test_two_files_at_one_position(series):
    folder, _ = series
    (folder / "g.dcm").write_bytes((folder / "f.dcm").read_bytes())
    refused(folder, r"\.dcm: lies at the position of [fg]\.dcm")


def test_foreign_files(series, change_file, make_slice):
    folder, _ = series
    (folder / "notes.txt").write_text("passed over")
    (folder / ".hidden").write_text("passed over")
    (folder / "DICOMDIR").write_text("passed over")
    assert ecvl.read(folder).array.shape == (6, 9, 11)
    change_file(folder / "c.dcm", SeriesInstanceUID=generate_uid())
    assert refused(folder, "another series than a.dcm").startswith(f"{folder / 'c.dcm'}: ")
    (folder / "c.dcm").write_text("not DICOM at all")
    assert refused(folder, "c.dcm").startswith(f"{folder / 'c.dcm'}: ")


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not parallel"),
        ({"PixelSpacing": [0.8, 0.9]}, "PixelSpacing is"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
    ],
)
def test_slices_that_do_not_fit(series, change_file, elements, message):
    folder, _ = series
    change_file(folder / "e.dcm", **elements)
    assert refused(folder, message).startswith(f"{folder / 'e.dcm'}: ")


def test_slice_of_another_size(series, make_slice):
    folder, _ = series
    dataset = make_slice(np.zeros((5, 11), np.uint16), (-20, -30, 100))
    dataset.save_as(folder / "e.dcm", enforce_file_format=True)
    assert refused(folder, "Rows is 5, in a.dcm it is 9").startswith(f"{folder / 'e.dcm'}: ")


def test_folders_and_lists_that_are_no_series(tmp_path, series):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: holds no DICOM file")
    ecvl.write(tmp_path / "x.png", Image(np.zeros((3, 3), np.uint8), "yx"))
    refused([tmp_path / "x.png", series[0] / "a.dcm"], r"x\.png: is not a DICOM file")
    refused([series[0] / "a.dcm", series[0] / "nothing.dcm"], r"nothing\.dcm: no such file")


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8),
        np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16),
        np.random.default_rng(0).integers(-32768, 32768, (5, 7), dtype=np.int16),
        np.random.default_rng(0).integers(-1024, 3000, (5, 7)).astype(np.float32),
        np.random.default_rng(0).integers(-40000, 20000, (5, 7)),
    ],
    ids=lambda array: str(array.dtype),
)
def test_written_values_come_back_exactly(tmp_path, array):
    path = tmp_path / "image.dcm"
    ecvl.write(path, Image(array, "yx", spacing=(0.5, 0.25)))
    dataset = pydicom.dcmread(path)
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert np.array_equal(values, array)
    read = ecvl.read(path)
    assert read.spacing == (0.5, 0.25)
    assert np.array_equal(read.array, array)


def test_written_floats_are_as_close_as_16_bits_allow(tmp_path):
    array = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    ecvl.write(tmp_path / "image.dcm", Image(array, "yx"))
    half_step = (array.max() - array.min()) / 65535 / 2
    assert np.abs(ecvl.read(tmp_path / "image.dcm").array - array).max() <= half_step * 1.01
    ecvl.write(tmp_path / "flat.dcm", Image(np.full((2, 2), 0.25), "yx"))
    assert ecvl.read(tmp_path / "flat.dcm").array.tolist() == [[0.25, 0.25]] * 2


def test_written_colors_and_odd_sizes(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    ecvl.write(tmp_path / "rgb.dcm", Image(colors, "yxc", "rgb"))
    assert np.array_equal(pydicom.dcmread(tmp_path / "rgb.dcm").pixel_array, colors)
    assert np.array_equal(ecvl.read(tmp_path / "rgb.dcm").array, colors)


def test_written_file_is_a_valid_secondary_capture(tmp_path):
    path = tmp_path / "image.dcm"
    window = {"window_center": -600.0, "window_width": 1500.0, "modality": "CT"}
    ecvl.write(path, Image(np.zeros((4, 4), np.float32), "yx", metadata=window))
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.SOPClassUID.name == "Secondary Capture Image Storage"
    assert (dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleType) == (-600, 1500, "HU")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image(np.zeros((2, 3, 3)), "zyx"), "one DICOM file holds one slice"),
        (Image(np.zeros((3, 3, 4), np.uint8), "yxc", "rgba"), "4 channels"),
        (Image(np.array([[np.nan, 1.0]]), "yx"), "not finite"),
    ],
)
def test_what_cannot_be_written(tmp_path, image, message):
    with pytest.raises(DhhpcError, match=message):
        ecvl.write(tmp_path / "image.dcm", image)
    assert list(tmp_path.iterdir()) == []


def test_series_shown_as_png_uses_its_window(tmp_path, make_slice):
    stored = np.array([[0, 424, 1174, 4000]], dtype=np.uint16)
    dataset = make_slice(stored, (0, 0, 0), WindowCenter=-600, WindowWidth=1500)
    dataset.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    ecvl.write(tmp_path / "scan.png", ecvl.read(tmp_path / "scan.dcm"))
    # -1024, -600, 150 and 2976 HU in the window from -1350 to 150.
    assert ecvl.read(tmp_path / "scan.png").array.tolist() == [[round(326 / 1500 * 255), 128, 255, 255]]
