"""De-identification after DICOM PS3.15 annex E, Basic Application Level Confidentiality Profile (a superset).

Instead of naming the several hundred attributes of table E.1-1 one by one, whole value representations are
cleared and the few attributes that image work needs are kept:
- person names, ages, addresses, URLs, free text, unknown and private elements, overlays and curves are
removed;
- short texts (LO, SH) are removed unless listed in `KEPT_TEXTS`;
- dates and times are emptied where the standard asks for them to be present, otherwise removed;
- PatientName and PatientID become a pseudonym; every instance UID becomes another one, the same for the same
input;
- sequences that speak of people, orders and devices are removed; all others are cleaned inside.

Pseudonyms and UIDs come from HMAC-SHA256 under a secret. Without the secret, trying out names or numbers
against them tells nothing; with it, they can be recomputed, so whoever must not link them must not have it.
Not covered: faces in head scans, and text burned into pixels, of which only the announced kind is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from typing import Any, overload

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from dhhpc.errors import DhhpcError

REMOVED_REPRESENTATIONS = {
    "PN",
    "AS",
    "AE",
    "LT",
    "ST",
    "UT",
    "UC",
    "UR",
    "UN",
    "OB",
    "OW",
    "OB or OW",
    "OF",
    "OD",
}
REMOVED_REPRESENTATIONS |= {"OL", "OV", "AT"}
TEMPORAL_REPRESENTATIONS = {"DA", "TM", "DT"}
SHORT_TEXTS = {"LO", "SH"}
KEPT_TEXTS = {
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "ConvolutionKernel", "FilterType",
    "SequenceName", "RescaleType", "WindowCenterWidthExplanation", "LUTExplanation", "ModalityLUTType",
    "DeidentificationMethod", "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning",
}  # fmt: skip
KEPT_BULK = {
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ICCProfile", "FrameIncrementPointer",
    "LUTData", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
}  # fmt: skip
# Attributes of harmless representations (CS, DS, US, SQ, IS) that still tell about a person, an order or a
# place.
REMOVED_ATTRIBUTES = {
    "PatientSize", "PatientWeight", "SmokingStatus", "PregnancyStatus", "PatientSexNeutered",
    "EthnicGroupCodeSequence", "PatientSpeciesCodeSequence", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "ResponsiblePersonRole", "PatientPrimaryLanguageCodeSequence",
    "OtherPatientIDsSequence", "IssuerOfPatientIDQualifiersSequence", "ReferencedPatientSequence",
    "ReferencedPatientPhotoSequence", "PatientInsurancePlanCodeSequence", "ReferencedStudySequence",
    "ReferencedPerformedProcedureStepSequence", "ReferencedVisitSequence",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianIdentificationSequence",
    "PerformingPhysicianIdentificationSequence", "PhysiciansOfRecordIdentificationSequence",
    "PhysiciansReadingStudyIdentificationSequence", "OperatorIdentificationSequence",
    "RequestingPhysicianIdentificationSequence", "IntendedRecipientsOfResultsIdentificationSequence",
    "InstitutionCodeSequence", "InstitutionalDepartmentTypeCodeSequence", "RequestAttributesSequence",
    "RequestedProcedureCodeSequence", "ScheduledProcedureStepSequence", "PerformedProtocolCodeSequence",
    "AdmittingDiagnosesCodeSequence", "ReasonForRequestedProcedureCodeSequence",
    "AcquisitionContextSequence", "ContentSequence", "CustodialOrganizationSequence",
    "ParticipantSequence", "AuthorObserverSequence", "VerifyingObserverSequence",
    "PersonIdentificationCodeSequence", "ReferencedImageEvidenceSequence",
    "ContributingEquipmentSequence", "DigitalSignaturesSequence", "MACParametersSequence",
    "IconImageSequence", "OriginalAttributesSequence", "EncryptedAttributesSequence",
    "ModifiedAttributesSequence", "GraphicAnnotationSequence", "PatientState",
    "PatientGantryRelationshipCodeSequence", "ImageCommentsSequence", "ActualHumanPerformersSequence",
    "ScheduledHumanPerformersSequence", "ClinicalTrialTimePointTypeCodeSequence",
}  # fmt: skip
# Present but empty (type 2 in the general patient, study, series and image modules).
EMPTIED_ATTRIBUTES = {
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "ContentDate",
    "ContentTime", "AcquisitionDate", "AcquisitionTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
}  # fmt: skip
# UIDs under the root of the DICOM standard name classes, transfer syntaxes and the like, never a patient's
# data.
STANDARD_ROOT = "1.2.840.10008."
PROFILE_CODE = ("113100", "DCM", "Basic Application Confidentiality Profile")


def new_secret() -> bytes:
    """A fresh secret of 256 bits. Keep it away from the data.

    Whoever has it can link pseudonyms to patients.
    """
    return secrets.token_bytes(32)


PROCESS_SECRET = new_secret()


def keyed_digest(purpose: str, value: str, secret: bytes | None) -> bytes:
    return hmac.new(
        PROCESS_SECRET if secret is None else secret, f"{purpose}\0{value}".encode(), hashlib.sha256
    ).digest()


def pseudonym(value: str, secret: bytes | None = None) -> str:
    """16 hex digits for `value` (a patient ID, a path), the same for the same value and secret.

    Without `secret` one of this process is used: consistent within it, unlinkable after it.
    """
    return keyed_digest("pseudonym", value, secret).hex()[:16]


def replaced_uid(uid: str, secret: bytes | None = None) -> UID:
    """Another UID for `uid`, the same each time: 2.25 and a UUID (PS3.5 B.2) from the keyed hash."""
    return UID(f"2.25.{uuid.UUID(bytes=keyed_digest('uid', uid, secret)[:16], version=4).int}")


@overload
def deidentify(subject: Dataset, secret: bytes | None = None) -> Dataset: ...
@overload
def deidentify(subject: dict[str, Any], secret: bytes | None = None) -> dict[str, Any]: ...
def deidentify(subject: Dataset | dict[str, Any], secret: bytes | None = None) -> Dataset | dict[str, Any]:
    """A de-identified copy of a pydicom dataset, or of the metadata of an `Image` (its `dicom` is cleaned).

    Args:
        subject: left as it is. secret: the key of pseudonyms and UIDs; the same one for all files of a study
        set. Without it, one of this
            process.

    Raises:
        DhhpcError: BurnedInAnnotation says YES: the pixels show identifying text, which no header change
        removes.
    """
    if isinstance(subject, dict):
        cleaned = dict(subject)
        if "dicom" in cleaned:
            cleaned["dicom"] = deidentify(cleaned["dicom"], secret)
        return cleaned
    if str(subject.get("BurnedInAnnotation", "NO")).upper() == "YES":
        raise DhhpcError(
            f"{getattr(subject, 'filename', None) or 'DICOM dataset'}: BurnedInAnnotation is YES, its pixels"
            " show text about the patient; mask the pixels and set the flag to NO"
        )
    identity = str(subject.get("PatientID") or subject.get("PatientName") or "")
    dataset = cleaned_copy(subject, secret)
    name = pseudonym(identity, secret)
    dataset.PatientID = name
    dataset.PatientName = name
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethod = "dhhpc: PS3.15 annex E basic profile, header only"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = PROFILE_CODE
    dataset.DeidentificationMethodCodeSequence = Sequence([code])
    if hasattr(subject, "file_meta"):
        meta = FileMetaDataset()
        for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
            if keyword in subject.file_meta:
                setattr(meta, keyword, getattr(subject.file_meta, keyword))
        if "SOPInstanceUID" in dataset:
            meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta = meta
    return dataset


def cleaned_copy(dataset: Dataset, secret: bytes | None) -> Dataset:
    """The elements of `dataset` that may stay, changed where they must be."""
    result = Dataset()
    for element in dataset:
        kept = cleaned_element(element, secret)
        if kept is not None:
            result.add(kept)
    return result


def cleaned_element(element: DataElement, secret: bytes | None) -> DataElement | None:
    """What stays of one element; None for nothing."""
    group, keyword, representation = element.tag.group, element.keyword, str(element.VR)
    if element.tag.is_private or not keyword or keyword in REMOVED_ATTRIBUTES:
        return None
    if 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:  # curves and overlays: drawings over the image
        return None
    if keyword in EMPTIED_ATTRIBUTES:
        return DataElement(element.tag, element.VR, None)
    if keyword in KEPT_BULK or (representation in SHORT_TEXTS and keyword in KEPT_TEXTS):
        return DataElement(element.tag, element.VR, element.value)
    if representation in REMOVED_REPRESENTATIONS | TEMPORAL_REPRESENTATIONS | SHORT_TEXTS:
        return None
    if representation == "SQ":
        return DataElement(
            element.tag, "SQ", Sequence([cleaned_copy(item, secret) for item in element.value])
        )
    if representation == "UI":
        return DataElement(element.tag, "UI", replaced(element.value, secret))
    return DataElement(element.tag, element.VR, element.value)


def replaced(value: Any, secret: bytes | None) -> Any:
    if not value:
        return value
    if not isinstance(value, str):
        return [replaced(part, secret) for part in value]
    return value if value.startswith(STANDARD_ROOT) else replaced_uid(value, secret)
