"""De-identification: nothing about the person is left, and what images need is."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from dhhpc import ecvl
from dhhpc.errors import DhhpcError

SECRET = b"a secret of the study"
# One value an attribute, each found nowhere else, so that any leak shows in the written bytes.
IDENTIFYING = {
    "PatientName": "Leak01^Name",
    "PatientID": "LEAK02",
    "PatientBirthDate": "19470102",
    "PatientAge": "077Y",
    "PatientAddress": "Leak03 Street",
    "PatientTelephoneNumbers": "LEAK04",
    "OtherPatientNames": "Leak05^Name",
    "PatientMotherBirthName": "Leak06^Name",
    "EthnicGroup": "LEAK07",
    "Occupation": "Leak08",
    "PatientWeight": "81.357",
    "AdditionalPatientHistory": "Leak09 history",
    "PatientComments": "Leak10",
    "MedicalRecordLocator": "LEAK11",
    "StudyDate": "20240203",
    "StudyTime": "112233.445",
    "SeriesDate": "20240204",
    "AcquisitionDateTime": "20240205081500",
    "ContentDate": "20240206",
    "AccessionNumber": "LEAK12",
    "StudyID": "LEAK13",
    "InstitutionName": "Leak14 Hospital",
    "InstitutionAddress": "Leak15",
    "StationName": "LEAK16",
    "ReferringPhysicianName": "Leak17^Dr",
    "PerformingPhysicianName": "Leak18^Dr",
    "OperatorsName": "Leak19^Op",
    "DeviceSerialNumber": "LEAK20",
    "StudyDescription": "Leak21 study",
    "SeriesDescription": "Leak22 series",
    "ProtocolName": "Leak23",
    "ImageComments": "Leak24",
    "RequestedProcedureDescription": "Leak25",
    "DetectorID": "LEAK26",
    "PlateID": "LEAK27",
    "PerformedProcedureStepID": "LEAK28",
    "RequestingPhysician": "Leak29^Dr",
    "RetrieveURL": "http://leak30.example",
    "CurrentPatientLocation": "Leak31",
    "AdmissionID": "LEAK32",
    "SmokingStatus": "YES",
    "DerivationDescription": "Leak33",
    "PerformedStationAETitle": "LEAK34",
    "ContentCreatorName": "Leak35^Name",
    "IssuerOfPatientID": "LEAK36",
    "StudyComments": "Leak37",
    "ClinicalTrialSubjectID": "LEAK38",
}


@pytest.fixture
def scan(make_slice) -> Dataset:
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4)
    dataset = make_slice(stored, (1, 2, 3), WindowCenter=40, WindowWidth=400)
    for keyword, value in IDENTIFYING.items():
        setattr(dataset, keyword, value)
    item = Dataset()
    item.ScheduledProcedureStepDescription, item.RequestedProcedureID = "Leak40", "LEAK41"
    dataset.RequestAttributesSequence = Sequence([item])
    source = Dataset()
    source.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    source.ReferencedSOPInstanceUID = "1.2.3.4.99999"
    source.PatientName = "Leak42^Nested"
    dataset.SourceImageSequence = Sequence([source])
    dataset.private_block(0x0019, "LEAK43 PRIVATE", create=True).add_new(1, "LO", "Leak44")
    dataset.add_new(0x60000022, "LO", "Leak45 overlay")
    dataset.add_new(0x60003000, "OW", b"LEAK46OVERLAY\0")
    dataset.add_new(0x50002600, "LO", "Leak47 curve")
    dataset.file_meta.SourceApplicationEntityTitle = "LEAK48"
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    dataset.Manufacturer, dataset.ConvolutionKernel, dataset.KVP = "ACME", "B60f", 120
    return dataset


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_nothing_about_the_person_is_left(scan):
    original = written(scan)
    for needle in (b"Leak01", b"LEAK28", b"Leak42", b"Leak44", b"LEAK48", b"19470102", b"1.2.3.4.99999"):
        assert needle in original
    content = written(ecvl.deidentify(scan, SECRET))
    assert b"leak" not in content.lower()
    # Long enough not to be in a drawn identifier by chance; all dates but that of birth begin with 2024020.
    for value in ("19470102", "077Y", "81.357", "2024020", "112233", "1.2.3.4.99999", scan.StudyInstanceUID):
        assert value.encode() not in content
    assert scan.SOPInstanceUID.encode() not in content
    assert scan.FrameOfReferenceUID.encode() not in content


def test_what_images_need_is_left(scan):
    clean = pydicom.dcmread(io.BytesIO(written(ecvl.deidentify(scan, SECRET))))
    assert np.array_equal(clean.pixel_array, scan.pixel_array)
    for keyword in (
        "SOPClassUID", "Modality", "Rows", "PixelSpacing", "SliceThickness", "ImagePositionPatient",
        "WindowWidth", "ImageOrientationPatient", "RescaleIntercept", "Manufacturer",
        "ConvolutionKernel", "KVP",
    ):  # fmt: skip
        assert clean[keyword].value == scan[keyword].value
    assert clean.SourceImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert clean.file_meta.MediaStorageSOPInstanceUID == clean.SOPInstanceUID
    assert clean.file_meta.TransferSyntaxUID == scan.file_meta.TransferSyntaxUID
    # Type 2 elements stay, empty; the profile announces itself (PS3.15 E.1.1, PS3.3 C.12.1.1).
    assert clean.StudyDate == clean.PatientBirthDate == clean.AccessionNumber == ""
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_the_given_dataset_is_left_alone(scan):
    before = written(scan)
    ecvl.deidentify(scan, SECRET)
    assert written(scan) == before


def test_identity_is_consistent_under_one_secret(scan, make_slice):
    other = make_slice(np.zeros((2, 2), np.uint16), (0, 0, 0), PatientID="LEAK02")
    other.StudyInstanceUID = scan.StudyInstanceUID
    first, second = (ecvl.deidentify(dataset, SECRET) for dataset in (scan, other))
    assert first.PatientID == second.PatientID == first.PatientName == ecvl.pseudonym("LEAK02", SECRET)
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID.startswith("2.25.")
    assert first.StudyInstanceUID.is_valid
    elsewhere = ecvl.deidentify(scan, b"another secret")
    assert elsewhere.PatientID != first.PatientID
    assert elsewhere.StudyInstanceUID != first.StudyInstanceUID


def test_pseudonyms_are_no_plain_hashes():
    """Whoever guesses the patient ID cannot confirm it by hashing it."""
    name = ecvl.pseudonym("LEAK02", SECRET)
    assert len(name) == 16
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        assert name not in hashlib.new(algorithm, b"LEAK02").hexdigest()
    names = {ecvl.pseudonym(str(number), SECRET) for number in range(5000)}
    assert len(names) == 5000
    assert ecvl.pseudonym("x") == ecvl.pseudonym("x")
    program = "from dhhpc import ecvl; print(ecvl.pseudonym('x'))"
    elsewhere = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert elsewhere.strip() != ecvl.pseudonym("x")


def test_announced_text_in_the_pixels_is_refused(tmp_path, scan):
    scan.BurnedInAnnotation = "YES"
    scan.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    with pytest.raises(DhhpcError, match=r"scan\.dcm: BurnedInAnnotation is YES"):
        ecvl.deidentify(pydicom.dcmread(tmp_path / "scan.dcm"), SECRET)
    with pytest.raises(DhhpcError, match="BurnedInAnnotation is YES"):
        ecvl.deidentify(ecvl.read(tmp_path / "scan.dcm").metadata, SECRET)


def test_metadata_of_an_image(series):
    metadata = ecvl.read(series[0]).metadata
    clean = ecvl.deidentify(metadata, SECRET)
    assert clean["dicom"].PatientID == ecvl.pseudonym("4711", SECRET)
    assert metadata["dicom"].PatientID == "4711"
    assert np.array_equal(clean["affine"], metadata["affine"])
