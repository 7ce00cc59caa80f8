"""From one image of a dataset to training samples: read it and its mask, preprocess, cut into slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc import ecvl
from dhhpc.data.dataset import Dataset, ImageEntry
from dhhpc.data.targets import foreground_classes
from dhhpc.ecvl.pipeline import in_step
from dhhpc.errors import DhhpcError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Samples:
    """The 2D samples of one image.

    Attributes:
        images: (n, C, H, W) float32.
        targets: uint8, masks (n, H, W) of class indices (0 is background) or labels (n, classes) of 0 and 1.
        regions: (n, H, W) uint8 of 0 and 1, or None.
        names: what tells them apart: numbers along z, of tiles, or of both; None for an image that is one
            sample.
    """

    images: Array
    targets: Array
    regions: Array | None
    names: list[str] | None

    def kept(self, rows: Array) -> Samples:
        """Only the samples where `rows` (n,) bool is True."""
        return Samples(
            self.images[rows],
            self.targets[rows],
            None if self.regions is None else self.regions[rows],
            None
            if self.names is None
            else [name for name, keep in zip(self.names, rows, strict=True) if keep],
        )


def read_entry(
    dataset: Dataset, entry: ImageEntry
) -> tuple[ecvl.Image, ecvl.Image | None, ecvl.Image | None]:
    """An image with its mask (uint8 class indices) and its evaluation region (uint8, 0 and 1).

    Raises:
        DhhpcError: a file is missing or damaged, mask or region has another size than the image, or the mask
            holds a value that is no class; names the files.
    """
    location = dataset.file(entry.location)
    image = ecvl.read(location)
    mask = region = None
    if dataset.label_kind(entry) == "mask":
        file = dataset.mask_files(entry)
        mask = beside(flat(ecvl.read(file), file), file, image, location, "mask")
        mask = mask.copy_with(class_indices(mask.array, file, dataset.classes))
    if entry.values.get("region") is not None:
        file = dataset.file(entry.values["region"])
        region = beside(flat(ecvl.read(file), file), file, image, location, "region")
        region = region.copy_with((region.array != 0).astype(np.uint8))
    return image, mask, region


def samples_of(
    dataset: Dataset,
    entry: ImageEntry,
    pipeline: ecvl.Pipeline,
    slices: bool,
    with_region: bool,
    secret: bytes | None,
) -> Samples:
    """The samples of one labelled image after the pipeline: one, or one for each slice of a volume.

    Args:
        slices: cut volumes into slices along z; without it a volume is refused.
        with_region: give samples of an image without a region one that covers all of it.
        secret: the key of pseudonyms where samples are de-identified, else None.

    Raises:
        DhhpcError: as `read_entry`; a step does not fit the image; it is a volume and `slices` is False;
            or it is to be de-identified and says that identifying text is burned into its pixels.
    """
    name = title(dataset.file(entry.location))
    image, mask, region = read_entry(dataset, entry)
    try:
        if secret is not None:
            ecvl.deidentify(image.metadata, secret)  # for its refusal: no header goes into a shard anyway
        image, mask, region = pipeline.apply(image, mask, region)
    except DhhpcError as error:
        raise DhhpcError(f"{name}: {error}") from None
    depth = image.size("z")
    if depth > 1 and not slices:
        raise DhhpcError(f"{name}: a volume of {depth} slices; set `slices: true` to train on its slices")
    planes = image.array_as("zcyx").astype(np.float32, copy=False)
    if not np.isfinite(planes).all():
        raise DhhpcError(f"{name}: holds values that are not finite; add a `clip` step or take it out")
    masks = None if mask is None else mask.array_as("zyx")
    regions = None if region is None else region.array_as("zyx")
    if with_region and regions is None:
        regions = np.ones((depth, *planes.shape[2:]), np.uint8)
    targets = masks if masks is not None else np.tile(label_vector(dataset, entry), (depth, 1))
    names = [str(number) for number in range(depth)] if "z" in image.channels else None
    return Samples(planes, targets, regions, names)


def label_vector(dataset: Dataset, entry: ImageEntry) -> Array:
    """Labels (classes,) uint8: 1 for each class of the image."""
    labels = np.zeros(len(dataset.classes), np.uint8)
    labels[dataset.class_indices(entry)] = 1
    return labels


def flat(mask: ecvl.Image, file: Path | list[Path]) -> ecvl.Image:
    """A mask without a channel axis."""
    if mask.size("c") > 1:
        raise DhhpcError(f"{title(file)}: a mask with {mask.size('c')} channels; save it with one")
    axes = mask.spatial_axes
    return mask.copy_with(mask.array_as(axes), channels=axes, color="none")


def beside(
    mask: ecvl.Image, file: Path | list[Path], image: ecvl.Image, location: Path | list[Path], role: str
) -> ecvl.Image:
    """A mask on the grid of its image; an error names both files."""
    try:
        fitted = in_step(mask, image, role)
    except DhhpcError as error:
        raise DhhpcError(f"{title(file)}: {error} (its image is {title(location)})") from None
    assert fitted is not None
    return fitted


def class_indices(values: Array, file: Path | list[Path], classes: list[str]) -> Array:
    """Mask values as uint8 class indices; with a single foreground class whatever is not 0 belongs to it."""
    count = len(foreground_classes(classes))
    if count == 1:
        return (values != 0).astype(np.uint8)
    wrong = (values < 0) | (values > count) | (values != np.rint(values))
    if wrong.any():
        found = values[wrong].flat[0]
        raise DhhpcError(
            f"{title(file)}: mask value {found:g} is no class; the {count} foreground classes are "
            f"1 to {count}, background is 0"
        )
    return values.astype(np.uint8)


def title(location: Path | list[Path]) -> str:
    """A location in one line: a list by its first file."""
    if isinstance(location, Path):
        return str(location)
    return f"{location[0]} (and {len(location) - 1} more)" if len(location) > 1 else str(location[0])
