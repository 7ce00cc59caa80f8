"""What a network is trained towards: class indices and masks turned into float32 target arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Task = Literal["segmentation", "classification"]

BACKGROUND = "background"


def foreground_classes(classes: Sequence[str]) -> list[str]:
    """The classes of a segmentation that are not background.

    Mask value 0 is always background, so a dataset may list it first (`[background, nodule]`) or leave it out
    (`[nodule]`): in both, mask value k is foreground class k, counted from 1.
    """
    return list(classes[1:] if classes and classes[0].lower() == BACKGROUND else classes)


def target_channels(task: Task, classes: Sequence[str]) -> int:
    """How many channels a target has: 1 for one foreground class, else one a class (background included)."""
    if task == "classification":
        return len(classes)
    foreground = len(foreground_classes(classes))
    return 1 if foreground == 1 else foreground + 1


def write_mask_target(mask: Array, out: Array) -> None:
    """Write mask (H, W) of class indices as the target `out` (channels, H, W) float32.

    One channel holds 1 wherever the mask is not 0; several are one-hot with background as channel 0.
    """
    if len(out) == 1:
        np.not_equal(mask, 0, out=out[0], casting="unsafe")
        return
    for index in range(len(out)):
        np.equal(mask, index, out=out[index], casting="unsafe")
