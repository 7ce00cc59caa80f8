"""Small data sets on disk, written with nibabel and Pillow: readers are judged by other writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
import yaml

# Voxel axes towards left, posterior and head, in millimetres: the directions in which images are held.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def volumes(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` CT-like volumes of `depth` slices with masks of one class; returns the folder.

    Volume i holds values of a seeded generator around i; its mask is a square in every second slice. Patients
    P0, P1... have two volumes each.
    """

    def write(
        count: int = 6,
        depth: int = 4,
        size: int = 16,
        folder: str = "study",
        preprocess: dict[str, Any] | None = None,
    ) -> Path:
        root = tmp_path / folder
        root.mkdir()
        images = []
        for index in range(count):
            rng = np.random.default_rng(index)
            array = rng.normal(index, 300, (size, size, depth)).astype(np.float32)  # x, y, z as NIfTI has it
            mask = np.zeros((size, size, depth), np.uint8)
            mask[3:7, 2:9, ::2] = 1
            nibabel.save(nibabel.Nifti1Image(array, LPS), root / f"scan{index}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(mask, LPS), root / f"mask{index}.nii.gz")
            images.append(
                {
                    "location": f"scan{index}.nii.gz",
                    "label": f"mask{index}.nii.gz",
                    "values": {"patient": f"P{index // 2}"},
                }
            )
        test = max(1, count // 3)
        split = {"training": list(range(count - test)), "test": list(range(count - test, count))}
        dataset = {"name": "lungs", "classes": ["nodule"], "images": images, "split": split}
        (root / "dataset.yml").write_text(yaml.safe_dump(dataset, sort_keys=False))
        settings: dict[str, Any] = {
            "dataset": "dataset.yml",
            "output": "shards",
            "slices": True,
            "images_per_shard": 2,
            "pipeline": [{"name": "window", "center": 0, "width": 1000}],
        }
        (root / "preprocess.yml").write_text(yaml.safe_dump(settings | (preprocess or {}), sort_keys=False))
        return root

    return write


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` 8-bit RGB images of 12 x 10, labelled benign, malignant...; returns the folder."""

    def write(count: int = 9, classes: tuple[str, ...] = ("benign", "malignant", "other")) -> Path:
        root = tmp_path / "photographs"
        root.mkdir()
        images = []
        for index in range(count):
            values = np.random.default_rng(index).integers(0, 256, (12, 10, 3)).astype(np.uint8)
            PIL.Image.fromarray(values).save(root / f"photo{index}.png")
            images.append({"location": f"photo{index}.png", "label": classes[index % len(classes)]})
        split = {"training": list(range(0, count - 2)), "validation": [count - 2], "test": [count - 1]}
        dataset = {"name": "skin", "classes": list(classes), "images": images, "split": split}
        (root / "dataset.yml").write_text(yaml.safe_dump(dataset, sort_keys=False))
        settings = {"dataset": "dataset.yml", "output": "shards", "images_per_shard": 4}
        (root / "preprocess.yml").write_text(yaml.safe_dump(settings))
        return root

    return write
