"""Images and DICOM files that several test modules read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES_UID = generate_uid(entropy_srcs=["series"])


def ct_slice(stored: np.ndarray, position: tuple[float, float, float], **elements: object) -> Dataset:
    """A CT slice as a scanner stores it; `elements` replace the usual ones, None removes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = SERIES_UID
    dataset.Modality = "CT"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelSpacing = [0.8, 0.7]
    dataset.SliceThickness = 2.5
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = list(position)
    dataset.PixelData = stored.tobytes()
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def make_slice() -> Callable[..., Dataset]:
    return ct_slice


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with six CT slices whose names run against their positions, and their stored values."""
    stored = np.random.default_rng(1).integers(0, 3000, (6, 9, 11)).astype(np.uint16)
    folder = tmp_path / "series"
    folder.mkdir()
    names = ["e", "b", "f", "a", "d", "c"]
    for index, (name, plane) in enumerate(zip(names, stored, strict=True)):
        dataset = ct_slice(plane, (-20.0, -30.0, 100 + 2.5 * index), InstanceNumber=6 - index)
        dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return folder, stored


def change(path: Path, **elements: object) -> None:
    """Set elements of a written DICOM file."""
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


@pytest.fixture
def change_file() -> Callable[..., None]:
    return change
