"""Retinal vessels: the DRIVE images (Staal et al., IEEE TMI 2004) as a dataset with a ready experiment.

DRIVE has 20 training and 20 test photographs of the fundus, 565 x 584 RGB, with an expert's vessel masks and
the field of view in which the published figures count (F1 0.8142 and AUC 0.9755 for U-Net: DeepHealth D1.1,
section 3.1). The images are not part of dhhpc; the folder must hold, for each,

    training/images/21_training.tif  training/1st_manual/21_manual1.gif  training/mask/21_training_mask.gif
    test/images/01_test.tif          test/1st_manual/01_manual1.gif      test/mask/01_test_mask.gif
"""

from __future__ import annotations

from pathlib import Path

from dhhpc.data.dataset import Dataset, ImageEntry, Split, write_dataset
from dhhpc.errors import DhhpcError
from dhhpc.files import write_text

VALIDATION_IMAGES = 2
DOCUMENTS = Path(__file__).parent / "documents" / "retina"


def retina_dataset(folder: Path | str, name: str = "drive") -> Dataset:
    """The dataset of a DRIVE folder: the last two training images validate, the official test images test.

    Args:
        folder: the folder described above; paths in the dataset are absolute.

    Raises:
        DhhpcError: an image, or its mask or field of view, is missing.
    """
    folder = Path(folder).resolve()
    entries = {part: retina_entries(folder, part) for part in ("training", "test")}
    training = len(entries["training"])
    if training <= VALIDATION_IMAGES:
        raise DhhpcError(
            f"{folder / 'training'}: {training} images; the split needs more than {VALIDATION_IMAGES}"
        )
    numbers = list(range(training + len(entries["test"])))
    return Dataset(
        name=name,
        description="DRIVE: vessels in photographs of the retina, with the field of view as region",
        classes=["vessel"],
        features=["patient", "region"],
        images=entries["training"] + entries["test"],
        split=Split(
            training=numbers[: training - VALIDATION_IMAGES],
            validation=numbers[training - VALIDATION_IMAGES : training],
            test=numbers[training:],
        ),
    )


def retina_entries(folder: Path, part: str) -> list[ImageEntry]:
    """An entry for each photograph in `folder/part/images`, by name."""
    images = sorted((folder / part / "images").glob("*.tif"))
    if not images:
        raise DhhpcError(
            f"{folder / part / 'images'}: no .tif images; give the folder that holds training/ and test/"
        )
    entries = []
    for image in images:
        number = image.stem.split("_")[0]
        label = folder / part / "1st_manual" / f"{number}_manual1.gif"
        region = folder / part / "mask" / f"{image.stem}_mask.gif"
        for needed in (label, region):
            if not needed.is_file():
                raise DhhpcError(f"{needed}: missing, and {image.name} needs it; complete the folder")
        values = {"patient": number, "region": str(region)}
        entries.append(ImageEntry(location=str(image), label=str(label), values=values))
    return entries


def prepare_retina(folder: Path | str, output: Path | str) -> Path:
    """Write dataset.yml, preprocess.yml and experiment.yml for DRIVE into `output`.

    Args:
        folder: the DRIVE images, as described above.
        output: where the documents go; existing ones are replaced.

    Returns:
        `output`.

    Raises:
        DhhpcError: the images are incomplete, or `output` cannot be written.
    """
    output = Path(output)
    write_dataset(output / "dataset.yml", retina_dataset(folder))
    for document in sorted(DOCUMENTS.glob("*.yml")):
        write_text(output / document.name, document.read_text(encoding="utf-8"))
    return output
