"""The image library: read, write, transform, augment and de-identify biomedical images."""

import importlib
from typing import TYPE_CHECKING, Any

from dhhpc.ecvl.augmentations import Augmentation
from dhhpc.ecvl.image import Image
from dhhpc.ecvl.io import read, write
from dhhpc.ecvl.pipeline import Pipeline, Step

if TYPE_CHECKING:
    from dhhpc.ecvl.deidentification import deidentify, new_secret, pseudonym

__all__ = [
    "Augmentation",
    "Image",
    "Pipeline",
    "Step",
    "deidentify",
    "new_secret",
    "pseudonym",
    "read",
    "write",
]


def __getattr__(name: str) -> Any:
    """De-identification comes when it is asked for: it loads pydicom, which no rank that trains needs."""
    if name in ("deidentify", "new_secret", "pseudonym"):
        return getattr(importlib.import_module("dhhpc.ecvl.deidentification"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
