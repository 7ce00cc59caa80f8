"""Preprocessing pipelines.

Steps that a YAML file names, applied to an image with its mask and region in step.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from dhhpc.documents import Document
from dhhpc.ecvl import geometry, processing
from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError

Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=3)]
Axes = Annotated[str, Field(pattern="^[zyx]+$")]


class IntensityStep(Document):
    """A step that changes values; masks and regions are left alone."""

    def apply(self, image: Image) -> Image:
        raise NotImplementedError

    def apply_to_mask(self, mask: Image) -> Image:
        return mask


class GeometricStep(IntensityStep):
    """A step that moves voxels; masks and regions move alike, by nearest neighbour and filled with 0."""

    def apply_to_mask(self, mask: Image) -> Image:
        raise NotImplementedError


class Window(IntensityStep):
    """[center - width/2, center + width/2] to [0, 1], clipped.

    E.g. center -600, width 1500 for lungs in CT.
    """

    name: Literal["window"] = "window"
    center: float
    width: float = Field(gt=0)

    def apply(self, image: Image) -> Image:
        return processing.window(image, self.center, self.width)


class Clip(IntensityStep):
    """Values below `low` or above `high` are set to them."""

    name: Literal["clip"] = "clip"
    low: float
    high: float

    def apply(self, image: Image) -> Image:
        return processing.clip(image, self.low, self.high)


class Rescale(IntensityStep):
    """The range between two percentiles of each image to [0, 1], clipped."""

    name: Literal["rescale"] = "rescale"
    low_percentile: float = Field(0.0, ge=0, le=100)
    high_percentile: float = Field(100.0, ge=0, le=100)

    def apply(self, image: Image) -> Image:
        return processing.rescale(image, self.low_percentile, self.high_percentile)


class Normalize(IntensityStep):
    """(value - mean) / deviation: numbers (one, or one a channel), or `per_image` with each image's own."""

    name: Literal["normalize"] = "normalize"
    mean: float | list[float] | None = None
    deviation: float | list[float] | None = None
    per_image: bool = False

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Normalize:
        given = self.mean is not None and self.deviation is not None
        if given == self.per_image or (self.mean is None) != (self.deviation is None):
            raise ValueError("give either both mean and deviation, or per_image: true")
        numbers = self.deviation if isinstance(self.deviation, list) else [self.deviation]
        if any(number is not None and number <= 0 for number in numbers):
            raise ValueError("deviation must be above 0")
        return self

    def apply(self, image: Image) -> Image:
        if self.mean is None or self.deviation is None:
            return processing.standardize(image)
        return processing.normalize(image, self.mean, self.deviation)


class Equalize(IntensityStep):
    """Contrast limited adaptive histogram equalisation of each slice and channel."""

    name: Literal["equalize"] = "equalize"
    clip_limit: float = Field(2.0, gt=0)
    tiles: int = Field(8, ge=1)

    def apply(self, image: Image) -> Image:
        return processing.equalize(image, self.clip_limit, self.tiles)


class Grayscale(IntensityStep):
    """Colour to luma."""

    name: Literal["grayscale"] = "grayscale"

    def apply(self, image: Image) -> Image:
        return processing.grayscale(image)


class Channel(IntensityStep):
    """One channel of a colour image, by index or colour name, e.g. green for retinal vessels."""

    name: Literal["channel"] = "channel"
    select: int | Literal["red", "green", "blue", "alpha"]

    def apply(self, image: Image) -> Image:
        return processing.select_channel(image, self.select)


class Resample(GeometricStep):
    """Voxels of the given size in mm, [y, x] or [z, y, x]."""

    name: Literal["resample"] = "resample"
    spacing: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=3)]
    interpolation: geometry.Interpolation = "linear"

    def apply(self, image: Image) -> Image:
        return geometry.resample(image, self.spacing, self.interpolation)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.resample(mask, self.spacing, "nearest")


class Resize(GeometricStep):
    """The given number of voxels over the same field of view, [y, x] or [z, y, x]."""

    name: Literal["resize"] = "resize"
    size: Size
    interpolation: geometry.Interpolation = "linear"

    def apply(self, image: Image) -> Image:
        return geometry.resize(image, self.size, self.interpolation)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.resize(mask, self.size, "nearest")


class Flip(GeometricStep):
    """Reverse along the axes, e.g. "y" or "yx"."""

    name: Literal["flip"] = "flip"
    axes: Axes

    def apply(self, image: Image) -> Image:
        return geometry.flip(image, self.axes)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.flip(mask, self.axes)


class Rotate(GeometricStep):
    """Rotate each slice about its centre, counter-clockwise on a screen."""

    name: Literal["rotate"] = "rotate"
    degrees: float
    fill: float = 0.0
    interpolation: geometry.Interpolation = "linear"

    def apply(self, image: Image) -> Image:
        return geometry.rotate(image, self.degrees, self.interpolation, self.fill)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.rotate(mask, self.degrees, "nearest")


class Rotate90(GeometricStep):
    """Quarter turns of each slice, counter-clockwise on a screen; exact."""

    name: Literal["rotate90"] = "rotate90"
    times: int = 1

    def apply(self, image: Image) -> Image:
        return geometry.rotate90(image, self.times)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.rotate90(mask, self.times)


class Crop(GeometricStep):
    """The central part, at most `size` voxels, [y, x] or [z, y, x]."""

    name: Literal["crop"] = "crop"
    size: Size

    def apply(self, image: Image) -> Image:
        return geometry.crop(image, self.size)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.crop(mask, self.size)


class Pad(GeometricStep):
    """`fill` around the image up to `size` voxels, or up to a multiple of `multiple` rows and columns."""

    name: Literal["pad"] = "pad"
    size: Size | None = None
    multiple: int | None = Field(None, ge=1)
    fill: float = 0.0

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> Pad:
        if (self.size is None) == (self.multiple is None):
            raise ValueError("give either size or multiple")
        return self

    def padded(self, image: Image, fill: float) -> Image:
        if self.size is not None:
            return geometry.pad(image, self.size, fill)
        return geometry.pad_to_multiple(image, self.multiple or 1, fill)

    def apply(self, image: Image) -> Image:
        return self.padded(image, self.fill)

    def apply_to_mask(self, mask: Image) -> Image:
        return self.padded(mask, 0)


class CropOrPad(GeometricStep):
    """Exactly `size` voxels, [y, x] or [z, y, x], cut or filled evenly on both sides."""

    name: Literal["crop_or_pad"] = "crop_or_pad"
    size: Size
    fill: float = 0.0

    def apply(self, image: Image) -> Image:
        return geometry.crop_or_pad(image, self.size, self.fill)

    def apply_to_mask(self, mask: Image) -> Image:
        return geometry.crop_or_pad(mask, self.size)


Step = Annotated[
    Window | Clip | Rescale | Normalize | Equalize | Grayscale | Channel
    | Resample | Resize | Flip | Rotate | Rotate90 | Crop | Pad | CropOrPad,
    Field(discriminator="name"),
]  # fmt: skip


class Pipeline(pydantic.RootModel[list[Step]]):
    """The steps in their order; `Pipeline([{"name": "window", "center": -600, "width": 1500}])`."""

    root: list[Step] = []

    def apply(
        self, image: Image, mask: Image | None = None, region: Image | None = None
    ) -> tuple[Image, Image | None, Image | None]:
        """Apply every step to the image and, where it moves voxels, to mask and region (nearest neighbour).

        Mask and region are first turned to the axes of the image where both know their place in the patient,
        and take over its spacing where they do not know theirs.

        Raises:
            DhhpcError: mask or region has another size than the image, or a step does not fit the image.
        """
        mask = in_step(mask, image, "mask")
        region = in_step(region, image, "region")
        for step in self.root:
            image = step.apply(image)
            mask = mask if mask is None else step.apply_to_mask(mask)
            region = region if region is None else step.apply_to_mask(region)
        return image, mask, region


def in_step(mask: Image | None, image: Image, role: str) -> Image | None:
    """`mask` on the grid of `image`: same directions, same size, same spacing."""
    if mask is None:
        return None
    mask = geometry.orient_like(mask, image)
    if mask.spatial_axes != image.spatial_axes and mask.size("z") == image.size("z") == 1:
        # A single slice may come as a volume of one.
        wanted = image.spatial_axes + ("c" if "c" in mask.channels else "")
        mask = mask.copy_with(mask.array_as(wanted), channels=wanted, spacing=None)
    sizes = [tuple(part.size(axis) for axis in image.spatial_axes) for part in (mask, image)]
    if mask.spatial_axes != image.spatial_axes or sizes[0] != sizes[1]:
        shapes = ["x".join(str(length) for length in part.spatial_shape) for part in (mask, image)]
        raise DhhpcError(
            f"the {role} has size {shapes[0]} and its image {shapes[1]}; give a {role} of the same size"
        )
    return mask.copy_with(mask.array, spacing=image.spacing)
