"""Lung nodules, yes or no: tiles of generated chest CT slices, told apart by a ResNet-18.

The patients are the phantoms of `chest_ct`, more of them and of fewer slices each than a segmentation needs:
neighbouring slices show the same nodules, and a classifier learns from different ones. Whether a tile holds a
nodule is told from the masks when the slices are preprocessed.
"""

from __future__ import annotations

from pathlib import Path

from dhhpc.data import partition, read_dataset, write_dataset
from dhhpc.files import write_text
from dhhpc.usecases.chest_ct import generate_chest_ct

DOCUMENTS = Path(__file__).parent / "documents" / "nodules"
SLICES = 6
RATIOS = {"training": 0.66, "validation": 0.10, "test": 0.24}


def prepare_nodules(output: Path | str, patients: int = 96, seed: int = 1) -> Path:
    """Generate the study set with dataset.yml, preprocess.yml and experiment.yml into `output`.

    Args:
        output: where all of it goes; files of an earlier set are replaced.
        patients: how many, 6 or more so that each split has one; they are divided by patient.
        seed: of images and split; the same seed gives the same files, byte for byte.

    Returns:
        `output`.

    Raises:
        DhhpcError: `output` cannot be written.
    """
    output = Path(output)
    path = generate_chest_ct(output, patients, slices=(SLICES, SLICES), seed=seed)
    write_dataset(path, partition(read_dataset(path), RATIOS, seed, group_by="patient"))
    for document in sorted(DOCUMENTS.glob("*.yml")):
        write_text(output / document.name, document.read_text(encoding="utf-8"))
    return output
