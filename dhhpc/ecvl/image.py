"""The image: an array that knows what its axes mean, its colour type and its size in millimetres."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from dhhpc.errors import DhhpcError

Color = Literal["gray", "rgb", "rgba", "bgr", "hsv", "none"]
SPATIAL_AXES = "zyx"
AXES = SPATIAL_AXES + "c"


@dataclasses.dataclass
class Image:
    """An image, a volume or a mask.

    Attributes:
        array: the values, any numeric or boolean dtype. channels: one letter an axis of `array`, in its
        order: `z` slice, `y` row, `x` column, `c` colour channel;
            e.g. "yx", "yxc", "zyx".
        color: what the values or the `c` axis mean; "none" for a mask or other labels. spacing: millimetres
        between the centres of neighbours, one number a spatial axis in array order, or None
            where the file does not tell.
        metadata: what else the file told. Keys in use: `affine` (4x4 float64, voxel index (x, y, z, 1) to
        patient
            coordinates in mm, right-anterior-superior as in NIfTI), `window_center` and `window_width` (as
            DICOM), `modality`, `dicom` (the header as a pydicom Dataset without pixel data), `format`.
    """

    array: np.ndarray
    channels: str
    color: str = "gray"
    spacing: tuple[float, ...] | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.channels)) != len(self.channels) or not set(self.channels) <= set(AXES):
            raise ValueError(f"channels {self.channels!r}: expected distinct letters of {AXES!r}")
        if "y" not in self.channels or "x" not in self.channels:
            raise ValueError(f"channels {self.channels!r}: an image has at least the axes y and x")
        if self.array.ndim != len(self.channels):
            raise ValueError(f"channels {self.channels!r} do not fit an array of shape {self.array.shape}")
        if self.color not in get_args(Color):
            raise ValueError(f"color {self.color!r}: expected one of {', '.join(get_args(Color))}")
        if self.spacing is not None:
            self.spacing = tuple(float(value) for value in self.spacing)
            if len(self.spacing) != len(self.spatial_axes):
                raise ValueError(
                    f"spacing {self.spacing} does not fit the spatial axes {self.spatial_axes!r}"
                )
            if not all(np.isfinite(value) and value > 0 for value in self.spacing):
                raise ValueError(f"spacing {self.spacing}: expected millimetres above 0")

    @property
    def spatial_axes(self) -> str:
        """The letters of the spatial axes in array order, e.g. "zyx" or "yx"."""
        return "".join(axis for axis in self.channels if axis in SPATIAL_AXES)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """The number of voxels along each of `spatial_axes`."""
        return tuple(self.size(axis) for axis in self.spatial_axes)

    def size(self, axis: str) -> int:
        """The length of the array along `axis`; 1 for an axis that the image does not have."""
        return int(self.array.shape[self.channels.index(axis)]) if axis in self.channels else 1

    def spacing_along(self, axis: str) -> float | None:
        """Millimetres between neighbours along a spatial axis, None where unknown."""
        if self.spacing is None or axis not in self.spatial_axes:
            return None
        return self.spacing[self.spatial_axes.index(axis)]

    def copy_with(self, array: np.ndarray, **changes: Any) -> Image:
        """This image with another array (and other fields); the metadata dictionary is copied, not shared."""
        changes.setdefault("metadata", dict(self.metadata))
        return dataclasses.replace(self, array=array, **changes)

    def array_as(self, channels: str) -> np.ndarray:
        """The array with its axes in the order `channels`; axes that the image lacks come in with length 1.

        A view where possible. `image.array_as("cyx")` is what a network wants of a 2D image.

        Raises:
            DhhpcError: `channels` leaves out an axis longer than 1.
        """
        array = self.array
        names = self.channels
        for axis in self.channels:
            if axis not in channels:
                if self.size(axis) != 1:
                    raise DhhpcError(
                        f"an image with axes {self.channels!r} and shape {self.array.shape} cannot be put"
                        f" as {channels!r}: select a single {'slice' if axis == 'z' else 'channel'} first"
                    )
                array = array.squeeze(names.index(axis))
                names = names.replace(axis, "")
        for axis in channels:
            if axis not in names:
                array = array[..., np.newaxis]
                names += axis
        return array.transpose([names.index(axis) for axis in channels])


def from_zyxc(array: np.ndarray, channels: str) -> np.ndarray:
    """A (z, y, x, c) array with the axes `channels` again."""
    absent = tuple(position for position, axis in enumerate("zyxc") if axis not in channels)
    present = [axis for axis in "zyxc" if axis in channels]
    array = array.squeeze(absent)
    return np.ascontiguousarray(array.transpose([present.index(axis) for axis in channels]))


def over_planes(array: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply `function` to every (y, x) plane of a (z, y, x, c) array."""
    depth, _, _, count = array.shape
    result: np.ndarray | None = None
    for z in range(depth):
        for c in range(count):
            plane = function(np.ascontiguousarray(array[z, :, :, c]))
            if result is None:
                result = np.empty((depth, *plane.shape, count), dtype=plane.dtype)
            result[z, :, :, c] = plane
    if result is None:
        raise DhhpcError("an image without slices or channels cannot be transformed")
    return result
