"""Lung nodules in chest CT (use case UC4), on a generated study set of real DICOM series.

Nodules of 5 to 30 mm, as in UC4's description (seed 001, 12.5.3). The patients are phantoms
(`chest_phantom`), the files are what a scanner would export: one folder a patient with one CT Image Storage
file a slice, named in no useful order, with invented names, identifiers and dates, so that reading, sorting,
de-identification and resampling have real work to do. Masks are NIfTI volumes on the grid of the series.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc import ecvl
from dhhpc.data.dataset import Dataset, ImageEntry, write_dataset
from dhhpc.files import write_error
from dhhpc.usecases import chest_phantom

SIZE = 160
DIAMETERS = (5.0, 30.0)
INTERCEPT = -1024
LUNG_WINDOW = {"center": -600.0, "width": 1500.0}

# The pipeline for these series: pixels of 2.5 mm, the lung window, the middle of the chest (240 x 280 mm).
PIPELINE: list[dict[str, Any]] = [
    {"name": "resample", "spacing": [2.5, 2.5]},
    {"name": "window", **LUNG_WINDOW},
    {"name": "crop_or_pad", "size": [96, 112]},
]

FAMILY_NAMES = ("Almeida", "Bianchi", "Costa", "Dubois", "Eriksen", "Fischer", "Garcia", "Horvath", "Jansen")
GIVEN_NAMES = {
    "F": ("Ada", "Chiara", "Elin", "Marie", "Sofia"),
    "M": ("Bruno", "David", "Jan", "Luca", "Pavel"),
}


def generate_chest_ct(
    folder: Path | str, patients: int = 24, slices: tuple[int, int] = (10, 14), seed: int = 1
) -> Path:
    """Generate the study set below `folder`.

    Args:
        folder: receives `dataset.yml`, `scans/<patient>/*.dcm` and `masks/<patient>.nii.gz`.
        patients: how many; patient k is the same whatever their number.
        slices: least and largest number of slices of a series.
        seed: of all randomness; the same seed gives the same files, byte for byte.

    Returns:
        The path of `dataset.yml`: one image a patient with `values.patient`, one class `nodule`, no split
        yet.

    Raises:
        DhhpcError: the folder cannot be written.
    """
    folder = Path(folder)
    entries = []
    for index in range(patients):
        name = f"patient-{index + 1:03d}"
        generate_patient(folder, name, slices, np.random.default_rng([seed, index]))
        entries.append(
            ImageEntry(location=f"scans/{name}", label=f"masks/{name}.nii.gz", values={"patient": name})
        )
    dataset = Dataset(
        name="chest-ct",
        description="Generated chest CT series with lung nodules of 5 to 30 mm (phantoms, no real patients)",
        classes=["nodule"],
        features=["patient"],
        images=entries,
    )
    path = folder / "dataset.yml"
    write_dataset(path, dataset)
    return path


def generate_patient(folder: Path, name: str, slices: tuple[int, int], rng: np.random.Generator) -> None:
    """One series and its mask."""
    chest = chest_phantom.draw_chest(rng)
    count = int(rng.integers(slices[0], slices[1] + 1))
    thickness = float(rng.choice([2.0, 2.5, 3.0]))
    spacing = round(chest.half_width * 2 * rng.uniform(1.04, 1.12) / SIZE, 3)
    columns = (np.arange(SIZE) - (SIZE - 1) / 2) * spacing
    rows = columns + 10  # room for the couch
    heights = round(float(rng.uniform(-45, 45)), 1) + np.arange(count) * thickness
    nodules = chest_phantom.draw_nodules(chest, rng, heights, int(rng.integers(2, 5)), DIAMETERS)
    volume, mask = chest_phantom.render(chest, nodules, rng, columns, rows, heights)
    write_series(folder / "scans" / name, volume, (columns[0], rows[0]), heights, spacing, thickness, rng)
    affine = np.diag([-spacing, -spacing, thickness, 1.0])
    affine[:3, 3] = [-columns[0], -rows[0], heights[0]]
    image = ecvl.Image(mask, "zyx", "none", (thickness, spacing, spacing), {"affine": affine})
    ecvl.write(folder / "masks" / f"{name}.nii.gz", image)


def write_series(
    folder: Path,
    volume: np.ndarray,
    corner: tuple[float, float],
    heights: np.ndarray,
    spacing: float,
    thickness: float,
    rng: np.random.Generator,
) -> None:
    """Write Hounsfield units (z, y, x) as CT Image Storage files with names in random order."""
    from pydicom.dataset import Dataset as DicomDataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(*parts: object) -> str:
        return str(generate_uid(entropy_srcs=[entropy, *(str(part) for part in parts)]))

    entropy = rng.bytes(16).hex()
    common = DicomDataset()
    describe_patient(common, rng)
    common.SOPClassUID = CTImageStorage
    common.StudyInstanceUID, common.SeriesInstanceUID = uid("study"), uid("series")
    common.FrameOfReferenceUID = uid("frame")
    common.Modality = "CT"
    common.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    common.Manufacturer, common.ManufacturerModelName = "dhhpc", "chest phantom"
    common.SeriesNumber, common.AcquisitionNumber = 2, 1
    common.SeriesDescription = "CHEST LUNG"
    common.BodyPartExamined, common.PatientPosition = "CHEST", "HFS"
    common.KVP, common.ConvolutionKernel = 120, "LUNG"
    common.PositionReferenceIndicator = ""
    common.Rows, common.Columns = volume.shape[1:]
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 12, 11, 0
    common.RescaleSlope, common.RescaleIntercept, common.RescaleType = 1, INTERCEPT, "HU"
    common.WindowCenter, common.WindowWidth = LUNG_WINDOW["center"], LUNG_WINDOW["width"]
    common.PixelSpacing = [decimal(spacing), decimal(spacing)]
    common.SliceThickness = common.SpacingBetweenSlices = decimal(thickness)
    common.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    stored = np.clip(np.rint(volume) - INTERCEPT, 0, 4095).astype("<u2")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    for stale in folder.glob("*.dcm"):  # of an earlier set with other numbers
        stale.unlink()
    for index, number in enumerate(rng.permutation(len(stored))):
        dataset = DicomDataset(common)
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [decimal(value) for value in (*corner, heights[index])]
        dataset.SliceLocation = decimal(heights[index])
        dataset.PixelData = stored[index].tobytes()
        dataset.SOPInstanceUID = uid("instance", index)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{number + 1:04d}.dcm"
        try:  # not through a temporary file: `dataset.yml` comes last and vouches for the rest
            dataset.save_as(path, enforce_file_format=True)
        except OSError as error:
            raise write_error(path, error) from error


def decimal(value: float) -> str:
    """A DICOM decimal string."""
    return f"{float(value):.6g}"


def describe_patient(dataset: Any, rng: np.random.Generator) -> None:
    """Fill in an invented person and study."""
    sex = str(rng.choice(["F", "M"]))
    age = int(rng.integers(40, 86))
    study = datetime.date(2024, 1, 1) + datetime.timedelta(days=int(rng.integers(365)))
    birth = study - datetime.timedelta(days=int(age * 365.25 + rng.integers(1, 360)))
    time = f"{rng.integers(8, 18):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    dataset.PatientName = f"{rng.choice(FAMILY_NAMES)}^{rng.choice(GIVEN_NAMES[sex])}"
    dataset.PatientID = f"CT{rng.integers(10**7):07d}"
    dataset.PatientBirthDate = birth.strftime("%Y%m%d")
    dataset.PatientSex, dataset.PatientAge = sex, f"{age:03d}Y"
    for step in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{step}Date", study.strftime("%Y%m%d"))
        setattr(dataset, f"{step}Time", time)
    dataset.AccessionNumber = f"A{rng.integers(10**8):08d}"
    dataset.StudyID = f"{rng.integers(10**5):05d}"
    dataset.StudyDescription = "CT chest without contrast"
    dataset.ReferringPhysicianName = f"{rng.choice(FAMILY_NAMES)}^Dr"
    dataset.InstitutionName = "Example Hospital"
    dataset.StationName = f"CTSCAN{rng.integers(1, 4)}"
