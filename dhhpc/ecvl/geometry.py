"""What moves the voxels of an image, on "yx", "yxc", "zyx" and "zyxc".

Every function takes the interpolation, so that a mask goes the same way with `nearest`, and keeps `spacing`
and `metadata["affine"]` true. Voxel centres lie at half-integer positions (index + 0.5), the convention of
OpenCV and of PyTorch's align_corners=False: a resized image covers the same field of view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np

from dhhpc.ecvl.image import Image, from_zyxc, over_planes
from dhhpc.errors import DhhpcError

Interpolation = Literal["linear", "nearest", "area", "cubic"]
OPENCV_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
}


def resize(image: Image, size: Sequence[int], interpolation: Interpolation = "linear") -> Image:
    """The same field of view with `size` voxels along the last spatial axes, (y, x) or (z, y, x).

    Linear interpolation, area averaging and cubic work in the slices; along z all but nearest are linear.
    Integers other than 8 and 16 bits become float32 unless nearest.
    """
    axes = trailing_axes(image, size, "resize")
    targets = dict(zip(axes, (int(value) for value in size), strict=True))
    if min(targets.values()) < 1:
        raise DhhpcError(f"resize to {list(size)}: sizes start at 1")
    array = image.array_as("zyxc")
    old = dict(zip("zyx", array.shape, strict=False))
    new = old | targets
    if interpolation == "nearest":
        for position, axis in enumerate("zyx"):
            if new[axis] != old[axis]:
                nearest = np.floor((np.arange(new[axis]) + 0.5) * (old[axis] / new[axis])).astype(np.int64)
                array = np.take(array, np.minimum(nearest, old[axis] - 1), axis=position)
    else:
        if array.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
            array = array.astype(np.float32)
        if (new["y"], new["x"]) != (old["y"], old["x"]):
            flag = OPENCV_INTERPOLATION[interpolation]
            array = over_planes(
                array, lambda plane: cv2.resize(plane, (new["x"], new["y"]), interpolation=flag)
            )
        if new["z"] != old["z"]:
            array = linear_along_first(array, new["z"])
    scale = {axis: old[axis] / new[axis] for axis in "zyx"}
    matrix = np.diag([scale["x"], scale["y"], scale["z"], 1.0])
    matrix[:3, 3] = [(scale[axis] - 1) / 2 for axis in "xyz"]
    return moved(image, array, matrix, {axis: scale[axis] for axis in "zyx"})


def resample(image: Image, spacing: Sequence[float], interpolation: Interpolation = "linear") -> Image:
    """The same field of view with voxels of about `spacing` mm along the last spatial axes, in array order.

    The number of voxels is rounded, so the resulting spacing (recorded in the image) differs from the request
    by at most half a voxel over the whole extent.

    Raises:
        DhhpcError: the image does not know its spacing.
    """
    axes = trailing_axes(image, spacing, "resample")
    if image.spacing is None:
        raise DhhpcError("resample: the image does not tell its spacing in mm; use resize")
    if min(spacing) <= 0:
        raise DhhpcError(f"resample to {list(spacing)} mm: expected numbers above 0")
    size = []
    for axis, wanted in zip(axes, spacing, strict=True):
        extent = image.size(axis) * (image.spacing_along(axis) or 1.0)
        size.append(max(1, int(np.floor(extent / wanted + 0.5))))
    return resize(image, size, interpolation)


def flip(image: Image, axes: str) -> Image:
    """Reverse the image along each of `axes`, letters of "zyx"."""
    matrix = np.eye(4)
    array = image.array_as("zyxc")
    for axis in axes:
        if axis not in image.spatial_axes:
            raise DhhpcError(f"flip along {axis!r}: the image has the spatial axes {image.spatial_axes!r}")
        array = np.flip(array, "zyx".index(axis))
        column = "xyz".index(axis)
        matrix[column, column] *= -1
        matrix[column, 3] = image.size(axis) - 1 if matrix[column, column] < 0 else 0
    return moved(image, array, matrix)


def rotate(image: Image, degrees: float, interpolation: Interpolation = "linear", fill: float = 0.0) -> Image:
    """Rotate every slice by `degrees` about its centre, counter-clockwise as seen on a screen (y downwards).

    The size stays; what comes from outside is `fill`. Where rows and columns have different spacing the
    rotation is one in millimetres.
    """
    array = image.array_as("zyxc")
    height, width = array.shape[1:3]
    row, column = image.spacing_along("y") or 1.0, image.spacing_along("x") or 1.0
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    # From output to input: the inverse rotation, in pixels.
    turn = np.array([[cosine, -sine * row / column], [sine * column / row, cosine]])
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = center - turn @ center
    flags = (
        OPENCV_INTERPOLATION["linear" if interpolation == "area" else interpolation] | cv2.WARP_INVERSE_MAP
    )
    matrix = np.column_stack([turn, offset])

    def turned(plane: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(
            plane, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
        )

    worked = array if array.dtype in (np.uint8, np.uint16, np.int16, np.float32) else array.astype(np.float64)
    result = over_planes(worked, turned)
    if interpolation == "nearest" or array.dtype.kind == "f":
        result = result.astype(array.dtype, copy=False)
    elif worked.dtype == np.float64:
        result = result.astype(np.float32)
    whole = np.eye(4)
    whole[:2, :2], whole[:2, 3] = turn, offset
    return moved(image, result, whole)


def rotate90(image: Image, times: int = 1) -> Image:
    """Rotate every slice by `times` quarter turns, counter-clockwise on a screen.

    Exact, rows and columns swap.
    """
    times %= 4
    array = image.array_as("zyxc")
    matrix = np.eye(4)
    height, width = array.shape[1:3]
    for _ in range(times):
        # One turn: new (x, y) comes from old (width - 1 - y, x).
        turn = np.eye(4)
        turn[:2, :2] = [[0, -1], [1, 0]]
        turn[0, 3] = width - 1
        matrix = matrix @ turn
        height, width = width, height
    spacing = image.spacing
    if spacing is not None and times % 2:
        named = dict(zip(image.spatial_axes, spacing, strict=True))
        named["x"], named["y"] = named["y"], named["x"]
        spacing = tuple(named[axis] for axis in image.spatial_axes)
    result = moved(image, np.rot90(array, times, axes=(1, 2)), matrix)
    return result.copy_with(result.array, spacing=spacing)


def crop(image: Image, size: Sequence[int]) -> Image:
    """The central part with at most `size` voxels along the last spatial axes.

    Smaller images stay as they are.
    """
    return shift_window(image, size, lambda have, want: min(have, want), 0.0, "crop")


def pad(image: Image, size: Sequence[int], fill: float = 0.0) -> Image:
    """Put `fill` around the image until it has at least `size` voxels along the last spatial axes."""
    return shift_window(image, size, lambda have, want: max(have, want), fill, "pad")


def crop_or_pad(image: Image, size: Sequence[int], fill: float = 0.0) -> Image:
    """Exactly `size` voxels along the last spatial axes: cut or filled evenly on both sides."""
    return shift_window(image, size, lambda have, want: want, fill, "crop_or_pad")


def pad_to_multiple(image: Image, multiple: int, fill: float = 0.0) -> Image:
    """Put `fill` around every slice until its height and width are multiples of `multiple`."""
    size = [-(-image.size(axis) // multiple) * multiple for axis in "yx"]
    return pad(image, size, fill)


def orient_like(mask: Image, image: Image) -> Image:
    """Turn `mask` by flips and transpositions so that its axes point where those of `image` do.

    Does nothing where either does not know its affine. Needed where a NIfTI mask belongs to a DICOM series
    that is not axial, since NIfTI is read with fixed directions.
    """
    if "affine" not in mask.metadata or "affine" not in image.metadata or mask.spatial_axes != "zyx":
        return mask
    from nibabel import orientations

    own, wanted = (orientations.io_orientation(part.metadata["affine"]) for part in (mask, image))
    if np.array_equal(own, wanted):
        return mask
    turn = orientations.ornt_transform(own, wanted)
    data = mask.array_as("xyzc")
    affine = mask.metadata["affine"] @ orientations.inv_ornt_aff(turn, data.shape[:3])
    array = from_zyxc(orientations.apply_orientation(data, turn).transpose(2, 1, 0, 3), mask.channels)
    spacing = tuple(float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    return mask.copy_with(array, spacing=spacing, metadata={**mask.metadata, "affine": affine})


def linear_along_first(array: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation along the first axis to `size` entries over the same extent.

    Half-integer centres.
    """
    count = array.shape[0]
    position = np.clip((np.arange(size) + 0.5) * (count / size) - 0.5, 0, count - 1)
    below = np.minimum(position.astype(np.int64), max(count - 2, 0))
    weight = (position - below).astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
    low, high = array[below].astype(np.float32), array[np.minimum(below + 1, count - 1)].astype(np.float32)
    mixed = low + weight * (high - low)
    return np.rint(mixed).astype(array.dtype) if array.dtype.kind in "iu" else mixed


def moved(
    image: Image, array: np.ndarray, matrix: np.ndarray, scale: dict[str, float] | None = None
) -> Image:
    """`image` with the moved (z, y, x, c) `array`.

    `matrix` takes new voxel indices (x, y, z, 1) to old ones.
    """
    metadata = dict(image.metadata)
    if "affine" in metadata:
        metadata["affine"] = metadata["affine"] @ matrix
    spacing = image.spacing
    if spacing is not None and scale is not None:
        spacing = tuple(value * scale[axis] for value, axis in zip(spacing, image.spatial_axes, strict=True))
    return image.copy_with(from_zyxc(array, image.channels), spacing=spacing, metadata=metadata)


def trailing_axes(image: Image, numbers: Sequence[float], name: str) -> str:
    """The spatial axes that `numbers` speak of: "yx" for two, "zyx" for three."""
    count = len(numbers)
    axes = "zyx"[-count:]
    if count not in (2, 3) or not set(axes) <= set(image.spatial_axes):
        raise DhhpcError(f"{name} {list(numbers)}: the image has the spatial axes {image.spatial_axes!r}")
    return axes


def shift_window(
    image: Image, size: Sequence[int], choose: Callable[[int, int], int], fill: float, name: str
) -> Image:
    """Cut or fill evenly on both sides (the odd voxel behind) so that each axis has the chosen size."""
    axes = trailing_axes(image, size, name)
    array = image.array_as("zyxc")
    matrix = np.eye(4)
    for axis, wanted in zip(axes, size, strict=True):
        have, position = image.size(axis), "zyx".index(axis)
        target = choose(have, int(wanted))
        if target < 1:
            raise DhhpcError(f"{name} to {list(size)}: sizes start at 1")
        if target < have:
            start = (have - target) // 2
            array = np.take(array, range(start, start + target), axis=position)
            matrix["xyz".index(axis), 3] = start
        elif target > have:
            before = (target - have) // 2
            widths = [(0, 0)] * 4
            widths[position] = (before, target - have - before)
            array = np.pad(array, widths, constant_values=np.asarray(fill, dtype=array.dtype).item())
            matrix["xyz".index(axis), 3] = -before
    return moved(image, array, matrix)
