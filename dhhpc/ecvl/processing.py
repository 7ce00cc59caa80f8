"""What can be done to an image: intensity and geometry, on "yx", "yxc", "zyx" and "zyxc".

Intensity functions change values only. Geometric functions move voxels; they take the interpolation, so that
a mask goes the same way with `nearest`. They keep `spacing` and `metadata["affine"]` true. Voxel centres lie
at half-integer positions (index + 0.5), the convention of OpenCV and of PyTorch's align_corners=False: a
resized image covers the same field of view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np

from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError

Interpolation = Literal["linear", "nearest", "area", "cubic"]
OPENCV_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
}
# Luma weights of red, green and blue: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


# Intensity


def window(image: Image, center: float, width: float) -> Image:
    """Map [center - width/2, center + width/2] to [0, 1] and clip, float32.

    DICOM PS3.3 C.11.2.1.3, LINEAR_EXACT.
    """
    if width <= 0:
        raise DhhpcError(f"window width {width}: expected a number above 0")
    low = np.float32(center - width / 2)
    return intensity(image, np.clip((image.array.astype(np.float32) - low) * np.float32(1 / width), 0, 1))


def clip(image: Image, low: float, high: float) -> Image:
    """Values below `low` become `low`, above `high` become `high`; the dtype stays."""
    return image.copy_with(np.clip(image.array, low, high).astype(image.array.dtype, copy=False))


def rescale(image: Image, low_percentile: float = 0.0, high_percentile: float = 100.0) -> Image:
    """Map the range between two percentiles of the image to [0, 1] and clip, float32.

    A constant image becomes 0.
    """
    values = image.array.astype(np.float32)
    low, high = np.percentile(values, [low_percentile, high_percentile])
    return intensity(image, np.clip((values - low) / (high - low if high > low else 1.0), 0, 1))


def normalize(image: Image, mean: float | Sequence[float], deviation: float | Sequence[float]) -> Image:
    """(value - mean) / deviation, float32; one number, or one a channel of `c`."""
    values = image.array.astype(np.float32)
    count = image.size("c")
    shape = [count if axis == "c" else 1 for axis in image.channels]
    numbers = []
    for name, value in (("mean", mean), ("deviation", deviation)):
        number = np.atleast_1d(np.asarray(value, dtype=np.float32))
        if number.size not in (1, count):
            raise DhhpcError(
                f"normalize: {number.size} numbers in {name} for {count} channels; give 1 or {count}"
            )
        numbers.append(np.broadcast_to(number, count).reshape(shape))
    return intensity(image, (values - numbers[0]) / numbers[1])


def standardize(image: Image) -> Image:
    """Mean 0 and standard deviation 1 over the whole image, float32; a constant image becomes 0."""
    values = image.array.astype(np.float64)
    deviation = values.std()
    return intensity(image, (values - values.mean()) / (deviation if deviation > 0 else 1.0))


def equalize(image: Image, clip_limit: float = 2.0, tiles: int = 8) -> Image:
    """Contrast limited adaptive histogram equalisation of every slice and channel (Zuiderveld 1994; OpenCV's CLAHE).

    uint8 and uint16 keep their dtype; floats are taken in [0, 1] (clipped), worked on with 16 bits, returned
    float32.
    """
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    array = image.array_as("zyxc")
    if array.dtype.kind == "f":
        levels = np.rint(np.clip(array, 0, 1) * 65535).astype(np.uint16)
        result = over_planes(levels, clahe.apply).astype(np.float32) / np.float32(65535)
    elif array.dtype in (np.uint8, np.uint16):
        result = over_planes(array, clahe.apply)
    else:
        raise DhhpcError(
            f"equalize takes uint8, uint16 or floats in 0..1, not {array.dtype}: window the image first"
        )
    return image.copy_with(back(result, image.channels))


def grayscale(image: Image) -> Image:
    """Luma of an RGB image (ITU-R BT.601) without the channel axis.

    Uint8 and uint16 stay such. Gray stays as it is.
    """
    if image.size("c") == 1:
        return select_channel(image, 0) if "c" in image.channels else image
    if image.color not in ("rgb", "rgba", "bgr"):
        raise DhhpcError(
            f"grayscale of a {image.color!r} image with {image.size('c')} channels: select a channel"
        )
    axis = image.channels.index("c")
    weights = np.asarray(LUMA if image.color != "bgr" else LUMA[::-1], dtype=np.float64)
    luma = np.tensordot(np.take(image.array, range(3), axis).astype(np.float64), weights, axes=(axis, 0))
    kept = image.array.dtype if image.array.dtype.kind in "iu" else np.dtype(np.float32)
    array = (np.rint(luma) if kept.kind in "iu" else luma).astype(kept)
    return image.copy_with(array, channels=image.channels.replace("c", ""), color="gray")


def select_channel(image: Image, channel: int | str) -> Image:
    """One channel, by index or by the name of a colour ("red", "green", "blue", "alpha"), without the channel axis."""
    if "c" not in image.channels:
        raise DhhpcError(
            f"channel {channel!r}: the image has axes {image.channels!r}, no channels to select from"
        )
    if isinstance(channel, str):
        order = {"rgb": "rgb", "rgba": "rgba", "bgr": "bgr"}.get(image.color, "")
        if channel[:1] not in order:
            raise DhhpcError(
                f"channel {channel!r}: a {image.color!r} image has no such channel; give its index"
            )
        channel = order.index(channel[:1])
    if not 0 <= channel < image.size("c"):
        raise DhhpcError(f"channel {channel}: the image has channels 0 to {image.size('c') - 1}")
    array = np.ascontiguousarray(np.take(image.array, channel, axis=image.channels.index("c")))
    return image.copy_with(array, channels=image.channels.replace("c", ""), color="gray")


def intensity(image: Image, array: np.ndarray) -> Image:
    """`image` with new float32 values; a DICOM window no longer fits them."""
    metadata = {key: value for key, value in image.metadata.items() if not key.startswith("window_")}
    return image.copy_with(array.astype(np.float32, copy=False), metadata=metadata)


# Geometry


def resize(image: Image, size: Sequence[int], interpolation: Interpolation = "linear") -> Image:
    """The same field of view with `size` voxels along the last spatial axes, in array order ((y, x) or (z, y, x)).

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
    """Turn `mask` by flips and transpositions so that its axes point where those of `image` point in the patient.

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
    array = back(orientations.apply_orientation(data, turn).transpose(2, 1, 0, 3), mask.channels)
    spacing = tuple(float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    return mask.copy_with(array, spacing=spacing, metadata={**mask.metadata, "affine": affine})


# Parts


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


def back(array: np.ndarray, channels: str) -> np.ndarray:
    """A (z, y, x, c) array with the axes `channels` again."""
    absent = tuple(position for position, axis in enumerate("zyxc") if axis not in channels)
    present = [axis for axis in "zyxc" if axis in channels]
    array = array.squeeze(absent)
    return np.ascontiguousarray(array.transpose([present.index(axis) for axis in channels]))


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
    return image.copy_with(back(array, image.channels), spacing=spacing, metadata=metadata)


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
    """Cut or fill evenly on both sides (one more voxel after than before) so that each axis has the chosen size."""
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
