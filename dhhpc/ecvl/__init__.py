"""The image library: read, write, transform, augment and de-identify biomedical images."""

from dhhpc.ecvl.augmentations import Augmentation
from dhhpc.ecvl.deidentification import deidentify, new_secret, pseudonym
from dhhpc.ecvl.image import Image
from dhhpc.ecvl.io import read, write
from dhhpc.ecvl.pipeline import Pipeline, Step

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
