"""Nothing that names a patient reaches the shards: their bytes and all that HDF5 holds are searched."""

import h5py
import numpy as np
import pydicom
import pytest
import yaml
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dhhpc.data import ShardSet, preprocess, read_preprocess
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World

NAMES = ("Garcia", "Maria", "MRN-4711", "19560213", "Ospedale")


def write_series(folder, slices=3, burned="NO"):
    folder.mkdir(parents=True)
    series, frame = generate_uid(), generate_uid()
    for number in range(slices):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.PatientName, dataset.PatientID = "Garcia^Maria", "MRN-4711"
        dataset.PatientBirthDate, dataset.InstitutionName = "19560213", "Ospedale"
        dataset.Modality, dataset.BurnedInAnnotation = "CT", burned
        dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID, dataset.StudyInstanceUID = (
            series,
            frame,
            series,
        )
        dataset.ImagePositionPatient = [0, 0, 2.5 * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.8], 2.5
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 12, 14, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1000
        dataset.PixelData = np.full((12, 14), 300 + number, np.uint16).tobytes()
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)


@pytest.fixture
def study(tmp_path):
    """A series in a folder that bears the patient's name, as downloads do."""
    location = "Garcia_Maria MRN-4711"
    write_series(tmp_path / location)
    values = {"patient": "MRN-4711"}
    images = [
        {"location": location, "label": "sick", "values": values},
        {"location": "Garcia/gone", "label": "healthy", "values": values},
    ]
    dataset = {"name": "d", "classes": ["healthy", "sick"], "images": images, "split": {"training": [0, 1]}}
    (tmp_path / "dataset.yml").write_text(yaml.safe_dump(dataset))
    (tmp_path / "preprocess.yml").write_text(
        "dataset: dataset.yml\noutput: shards\nslices: true\non_error: skip\nimages_per_shard: 1\n"
    )
    return tmp_path


def everything_in(folder):
    """Bytes of all files, and every string that HDF5 holds in names, attributes and datasets."""
    texts = [path.read_bytes() for path in folder.iterdir()]
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            texts += [repr(dict(file.attrs)).encode()]
            for name, dataset in file.items():
                texts += [name.encode(), repr(dict(dataset.attrs)).encode()]
                texts += [bytes(text) for text in dataset[:].ravel()] if dataset.dtype.kind == "O" else []
    return b"\0".join(texts)


def test_no_identifier_is_in_the_shards(study):
    summary = preprocess(read_preprocess(study / "preprocess.yml"), World())
    assert len(summary.skipped) == 1
    images, _, _ = ShardSet(study / "shards").read("training", range(3))
    np.testing.assert_array_equal(images[:, 0, 0, 0], [-400, -398, -396])  # Hounsfield units, bottom to top
    found = everything_in(study / "shards")
    assert ShardSet(study / "shards").identifiers("training")[2].encode() in found
    for name in NAMES:
        assert name.encode() not in found
        assert name.lower().encode() not in found.lower()


def test_the_search_would_find_them(study):
    document = read_preprocess(study / "preprocess.yml")
    document.deidentify = False
    preprocess(document, World())
    found = everything_in(study / "shards")
    for name in ("Garcia", "Maria", "MRN-4711"):
        assert name.encode() in found
    assert not (study / "pseudonyms.key").exists()


def test_pseudonyms_hang_on_the_secret_which_stays_with_the_dataset(study, tmp_path):
    document = read_preprocess(study / "preprocess.yml")
    preprocess(document, World())
    key = study / "pseudonyms.key"
    assert key.stat().st_mode & 0o077 == 0
    assert key.read_text().strip().encode() not in everything_in(study / "shards")
    first = ShardSet(study / "shards").identifiers("training")
    preprocess(document, World())
    assert ShardSet(study / "shards").identifiers("training") == first
    document.secret = "another.key"
    preprocess(document, World())
    assert not set(first) & set(ShardSet(study / "shards").identifiers("training"))
    (study / "another.key").write_text("no key\n")
    with pytest.raises(DhhpcError, match=r"another\.key: holds no key of pseudonyms"):
        preprocess(document, World())


def test_text_burned_into_pixels_is_refused(study):
    write_series(study / "burned", burned="YES")
    text = (study / "dataset.yml").read_text().replace("Garcia/gone", "burned")
    (study / "dataset.yml").write_text(text)
    document = read_preprocess(study / "preprocess.yml")
    document.on_error = "stop"
    with pytest.raises(DhhpcError, match=r"burned: .*BurnedInAnnotation is YES"):
        preprocess(document, World())
