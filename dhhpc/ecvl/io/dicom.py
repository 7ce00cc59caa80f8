"""DICOM by pydicom: a file, or the files of one series as a volume.

Values come as float32 after RescaleSlope and RescaleIntercept (Hounsfield units for CT, PS3.3 C.11.1.1);
MONOCHROME1, where low stored values are shown bright, is inverted within the stored range, except for
Hounsfield units, which are a measurement and not a display. A series is sorted by ImagePositionPatient along
the normal of the slices, never by file name or instance number.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing

# Scanners print positions with few digits: gaps between neighbouring slices may differ by this part of a gap.
SPACING_TOLERANCE = 0.02
# Direction cosines of slices of one series may differ by rounding.
ORIENTATION_TOLERANCE = 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES_IN_SERIES = ("", ".dcm", ".dicom", ".ima")


def read(path: Path) -> Image:
    """Read one DICOM file as "yx" (gray, float32) or "yxc" (colour, as stored).

    Several frames add a leading "z".
    """
    dataset = read_dataset(path)
    array = values_of(dataset, path)
    colored = (
        int(dataset.get("SamplesPerPixel", 1)) > 1 or dataset.PhotometricInterpretation == "PALETTE COLOR"
    )
    frames = array.ndim == (4 if colored else 3)
    channels = ("z" if frames else "") + "yx" + ("c" if colored else "")
    in_plane = in_plane_spacing(dataset, path)
    spacing: tuple[float, ...] | None = in_plane
    if frames:
        gap = slice_gap(dataset)
        spacing = (gap, *in_plane) if in_plane and gap else None
    metadata = metadata_of(dataset)
    if in_plane and not frames and (affine := affine_of(dataset, in_plane, None)) is not None:
        metadata["affine"] = affine
    return Image(array, channels, "rgb" if colored else "gray", spacing, metadata)


def read_folder(folder: Path) -> Image:
    """Read the DICOM series in `folder` (not below it).

    Files with a foreign extension and DICOMDIR are passed over.
    """
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.name.upper() != "DICOMDIR"
        and (path.suffix.lower() in SUFFIXES_IN_SERIES or path.suffix.lstrip(".").isdigit())
    )
    if not paths:
        raise DhhpcError(f"{folder}: holds no DICOM file; name a folder with the files of one series")
    return read_series(paths)


def read_series(paths: Sequence[Path]) -> Image:
    """Read the files of one series as a "zyx" volume, float32.

    z runs along the normal of the slices (row direction x column direction): towards the head for axial
    slices.

    Raises:
        DhhpcError: a file is damaged, belongs to another series, differs in size, orientation or pixel
        spacing, has
            no position, lies where another one lies, or a slice is missing.
    """
    datasets = [read_dataset(path) for path in paths]
    first = datasets[0]
    for path, dataset in zip(paths, datasets, strict=True):
        check_same_series(dataset, path, first, paths[0])
    orientation = np.asarray(first.ImageOrientationPatient, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    heights = [float(np.dot(np.asarray(dataset.ImagePositionPatient, float), normal)) for dataset in datasets]
    order = sorted(range(len(paths)), key=lambda index: heights[index])
    gap = regular_gap([heights[index] for index in order], [paths[index] for index in order])
    lowest, highest = datasets[order[0]], datasets[order[-1]]
    in_plane = in_plane_spacing(first, paths[0])
    gap = gap or slice_gap(first)
    planes = np.empty((len(order), int(first.Rows), int(first.Columns)), dtype=np.float32)
    for plane, index in zip(planes, order, strict=True):
        values = values_of(datasets[index], paths[index])
        if values.shape != plane.shape:
            raise DhhpcError(
                f"{paths[index]}: has shape {values.shape}; a series is read from gray single frames"
            )
        plane[...] = values
    metadata = metadata_of(lowest)
    if in_plane is None or gap is None:
        return Image(planes, "zyx", "gray", None, metadata)
    step = normal * gap
    if len(order) > 1:
        ends = [np.asarray(dataset.ImagePositionPatient, float) for dataset in (lowest, highest)]
        step = (ends[1] - ends[0]) / (len(order) - 1)  # also right under a gantry tilt
    metadata["affine"] = affine_of(lowest, in_plane, step)
    return Image(planes, "zyx", "gray", (gap, *in_plane), metadata)


def read_dataset(path: Path) -> Dataset:
    """The header and pixel data of one file, checked to be an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=path.suffix.lower() in SUFFIXES_IN_SERIES[1:])
            missing = next(
                (name for name in ("Rows", "Columns", "BitsAllocated") if name not in dataset), None
            )
            has_pixels = any(
                name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
            )
    except pydicom.errors.InvalidDicomError:
        raise DhhpcError(f"{path}: not a DICOM file; remove it or copy it anew") from None
    except Exception as error:  # a damaged header makes pydicom fail in many ways
        raise damaged(path, error) from None
    if missing is None and not has_pixels:
        missing = "pixel data"
    if missing is not None:
        raise DhhpcError(f"{path}: has no {missing} (truncated, or not an image); remove it or copy it anew")
    if "PerFrameFunctionalGroupsSequence" in dataset:
        raise DhhpcError(f"{path}: an enhanced multi-frame DICOM; convert it to one file a slice")
    return dataset


def damaged(path: Path, error: Exception) -> DhhpcError:
    reason = str(error).splitlines()[0].split(" - ")[0].rstrip(".") if str(error) else type(error).__name__
    return DhhpcError(f"{path}: damaged or truncated DICOM ({reason}); copy it anew from its source")


def values_of(dataset: Dataset, path: Path) -> np.ndarray:
    """Pixel values after rescale (float32), or the colours of a colour image in its own dtype."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = dataset.pixel_array
            interpretation = str(dataset.PhotometricInterpretation)
            if interpretation == "PALETTE COLOR":
                return apply_color_lut(stored, dataset)
            if int(dataset.get("SamplesPerPixel", 1)) > 1:
                return np.ascontiguousarray(stored)
            slope = float(dataset.get("RescaleSlope", 1) or 1)
            intercept = float(dataset.get("RescaleIntercept", 0) or 0)
            in_hounsfield = dataset.get("Modality") == "CT" or dataset.get("RescaleType") == "HU"
            if interpretation == "MONOCHROME1" and not in_hounsfield:
                signed = int(dataset.get("PixelRepresentation", 0)) == 1
                top = -1 if signed else 2 ** int(dataset.BitsStored) - 1
                stored = top - stored.astype(np.int64)
            return (stored * np.float64(slope) + intercept).astype(np.float32)
    except Exception as error:  # too few bytes, a broken compressed stream, a missing element, ...
        raise damaged(path, error) from None


def check_same_series(dataset: Dataset, path: Path, first: Dataset, first_path: Path) -> None:
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        if not dataset.get(name):
            raise DhhpcError(
                f"{path}: has no {name}, so its place in the volume is unknown; remove it from the series"
            )
    if dataset.get("SeriesInstanceUID") != first.get("SeriesInstanceUID"):
        raise DhhpcError(
            f"{path}: belongs to another series than {first_path.name} (SeriesInstanceUID differs);"
            " keep one series a folder"
        )
    for name, unit in (("Rows", ""), ("Columns", ""), ("PixelSpacing", " mm")):
        if dataset.get(name) != first.get(name):
            raise DhhpcError(
                f"{path}: {name} is {dataset.get(name)}{unit}, in {first_path.name} it is {first.get(name)};"
                " remove the file that does not belong"
            )
    turn = np.subtract(np.asarray(dataset.ImageOrientationPatient, float), first.ImageOrientationPatient)
    if np.abs(turn).max() > ORIENTATION_TOLERANCE:
        raise DhhpcError(
            f"{path}: its slice is not parallel to that of {first_path.name} (a scout view?); remove it"
        )


def regular_gap(heights: list[float], paths: list[Path]) -> float | None:
    """The distance in mm between neighbours of the sorted slices, None for a single one.

    Refuses irregular ones.
    """
    if len(heights) < 2:
        return None
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    closest = int(np.argmin(gaps))
    if gaps[closest] < 1e-3:
        raise DhhpcError(
            f"{paths[closest + 1]}: lies at the position of {paths[closest].name}; remove one of them"
        )
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > SPACING_TOLERANCE * usual:
        raise DhhpcError(
            f"{paths[worst + 1]}: lies {gaps[worst]:.3g} mm after {paths[worst].name} where {usual:.3g} mm"
            " is usual: a slice is missing or too much; complete the series"
        )
    return float((heights[-1] - heights[0]) / (len(heights) - 1))


def in_plane_spacing(dataset: Dataset, path: Path) -> tuple[float, float] | None:
    """Millimetres between rows and between columns; None where the file tells neither of them."""
    value = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if not value:
        return None
    if len(value) != 2 or not all(float(number) > 0 for number in value):
        raise DhhpcError(f"{path}: PixelSpacing is {value}; expected two numbers above 0, in mm")
    return float(value[0]), float(value[1])


def slice_gap(dataset: Dataset) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = dataset.get(name)
        if value and abs(float(value)) > 0:
            return abs(float(value))
    return None


def affine_of(dataset: Dataset, in_plane: tuple[float, float], step: np.ndarray | None) -> np.ndarray | None:
    """Voxel index (x, y, z) to patient mm in RAS (PS3.3 C.7.6.2.1.1, whose LPS is turned).

    None without a position.
    """
    if not dataset.get("ImagePositionPatient") or not dataset.get("ImageOrientationPatient"):
        return None
    orientation = np.asarray(dataset.ImageOrientationPatient, dtype=np.float64)
    if step is None:
        step = np.cross(orientation[:3], orientation[3:]) * (slice_gap(dataset) or 1.0)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * in_plane[1]
    affine[:3, 1] = orientation[3:] * in_plane[0]
    affine[:3, 2] = step
    affine[:3, 3] = np.asarray(dataset.ImagePositionPatient, dtype=np.float64)
    return LPS_TO_RAS @ affine


def metadata_of(dataset: Dataset) -> dict[str, Any]:
    header = Dataset({tag: dataset[tag] for tag in dataset.keys() if tag.group != 0x7FE0})  # noqa: SIM118
    if hasattr(dataset, "file_meta"):
        header.file_meta = dataset.file_meta
    metadata: dict[str, Any] = {
        "format": "dicom",
        "modality": str(dataset.get("Modality", "")),
        "dicom": header,
    }
    for key, name in (("window_center", "WindowCenter"), ("window_width", "WindowWidth")):
        value = dataset.get(name)
        if value is not None and value != "":
            metadata[key] = float(
                value[0] if isinstance(value, Sequence | pydicom.multival.MultiValue) else value
            )
    if not {"window_center", "window_width"} <= metadata.keys():
        metadata.pop("window_center", None)
        metadata.pop("window_width", None)
    return metadata


# Type 2 elements of the patient, study, series and image modules: present, may be empty.
EMPTY_ELEMENTS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber",
)  # fmt: skip


def write(path: Path, image: Image) -> None:
    """Write a 2D image as Secondary Capture: gray of 8 or 16 bits, or RGB of 8 bits.

    Integers are stored as they are; floats as 16-bit integers with the rescale that spans their range (exact
    where all of them are whole numbers within 65536 of one another, as Hounsfield units are).
    """
    if image.size("z") > 1:
        raise DhhpcError(f"{path}: one DICOM file holds one slice here; write the volume as .nii.gz")
    array = image.array_as("yxc")
    if array.shape[-1] not in (1, 3) or (
        array.shape[-1] == 3 and (array.dtype != np.uint8 or image.color != "rgb")
    ):
        raise DhhpcError(
            f"{path}: {array.shape[-1]} channels of {array.dtype}; DICOM takes gray or 8-bit RGB here"
        )
    array = np.ascontiguousarray(array[..., 0] if array.shape[-1] == 1 else array)
    array, slope, intercept = stored_values(array, path)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for name in EMPTY_ELEMENTS:
        setattr(dataset, name, None)
    dataset.Modality = image.metadata.get("modality") or "OT"
    dataset.ConversionType = "WSD"
    dataset.Rows, dataset.Columns = array.shape[:2]
    dataset.SamplesPerPixel = array.shape[2] if array.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if array.ndim == 3 else "MONOCHROME2"
    if array.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = array.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    if array.ndim == 2:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
        dataset.RescaleType = "HU" if image.metadata.get("modality") == "CT" else "US"
    if "window_width" in image.metadata:
        dataset.WindowCenter = f"{image.metadata['window_center']:.10g}"
        dataset.WindowWidth = f"{image.metadata['window_width']:.10g}"
    if image.spacing is not None:
        dataset.PixelSpacing = [f"{image.spacing_along(axis):.10g}" for axis in "yx"]
    dataset.PixelData = array.tobytes()
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    with replacing(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def stored_values(array: np.ndarray, path: Path) -> tuple[np.ndarray, float, float]:
    """(integers for PixelData, slope, intercept) with value = stored * slope + intercept."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8), 1.0, 0.0
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2 and array.dtype != np.int8:
        return array, 1.0, 0.0
    if not np.isfinite(array).all():
        raise DhhpcError(
            f"{path}: the image holds values that are not finite, which DICOM cannot store; replace them"
        )
    values = array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low <= 65535 and low == round(low) and (values == np.rint(values)).all():
        return (values - low).astype(np.uint16), 1.0, low
    # The rescale is read back from a decimal string of 16 characters: compute with the numbers that are
    # written.
    slope = float(f"{(high - low) / 65535:.10g}") or 1.0
    intercept = float(f"{low:.10g}")
    return np.clip(np.rint((values - intercept) / slope), 0, 65535).astype(np.uint16), slope, intercept
