"""Samples cut into tiles, and told apart by what their masks hold: classification from masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dhhpc.data.samples import Samples
from dhhpc.data.targets import BACKGROUND, foreground_classes
from dhhpc.errors import DhhpcError

Array = np.ndarray[Any, Any]


def cut_into_tiles(planes: Array, size: tuple[int, int]) -> Array:
    """Planes (n, ..., H, W) as tiles (n * tiles of a plane, ..., height, width), row by row from the top
    left.

    Raises:
        DhhpcError: the planes do not divide into tiles of `size` (height, width).
    """
    extents = planes.shape[-2:]
    if any(extent % part for extent, part in zip(extents, size, strict=True)):
        raise DhhpcError(
            f"tiles of {size[0]} x {size[1]} do not divide images of {extents[0]} x {extents[1]}; choose "
            f"another size, or add a `crop_or_pad` step"
        )
    rows, columns = (extent // part for extent, part in zip(extents, size, strict=True))
    between = planes.shape[1:-2]
    apart = planes.reshape(len(planes), *between, rows, size[0], columns, size[1])
    return np.moveaxis(apart, (-4, -2), (1, 2)).reshape(-1, *between, *size)


def tiled(samples: Samples, size: tuple[int, int]) -> Samples:
    """Samples with masks cut into tiles, which are numbered within their image or slice.

    Raises:
        DhhpcError: as `cut_into_tiles`.
    """
    images = cut_into_tiles(samples.images, size)
    tiles = range(len(images) // max(1, len(samples.images)))
    names = [""] if samples.names is None else [f"{name}/" for name in samples.names]
    return Samples(
        images,
        cut_into_tiles(samples.targets, size),
        None if samples.regions is None else cut_into_tiles(samples.regions, size),
        [f"{name}{tile}" for name in names for tile in tiles],
    )


def classes_of_masks(classes: Sequence[str]) -> list[str]:
    """The classes of samples that are told apart by their masks."""
    return [BACKGROUND, *foreground_classes(classes)]


def classified(samples: Samples, classes: Sequence[str], least_pixels: int) -> Samples:
    """Samples with masks as samples with one class each.

    It is the foreground class with the most pixels in the mask (of equals the first), if it has
    `least_pixels` of them; else the background.

    Args:
        classes: as in the dataset; labels are (n, 1 + foreground classes).
    """
    count = len(classes_of_masks(classes))
    pixels = np.stack([(samples.targets == index).sum(axis=(1, 2)) for index in range(1, count)], axis=1)
    chosen = np.where(pixels.max(axis=1) >= least_pixels, 1 + pixels.argmax(axis=1), 0)
    return dataclasses.replace(samples, targets=np.eye(count, dtype=np.uint8)[chosen])
