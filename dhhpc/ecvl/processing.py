"""What can be done to the values of an image, on "yx", "yxc", "zyx" and "zyxc"; geometry is in `geometry`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dhhpc.ecvl.image import Image, from_zyxc, over_planes
from dhhpc.errors import DhhpcError

# Luma weights of red, green and blue: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


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
    """Contrast limited adaptive histogram equalisation of every slice and channel (Zuiderveld 1994).

    Works on 256 levels, which the limit is meant for: uint8 stays uint8, floats are taken in [0, 1], clipped,
    and returned as float32.
    """
    clahe = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    array = image.array_as("zyxc")
    if array.dtype.kind == "f":
        levels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
        result = over_planes(levels, clahe.apply).astype(np.float32) / np.float32(255)
    elif array.dtype == np.uint8:
        result = over_planes(array, clahe.apply)
    else:
        raise DhhpcError(f"equalize: {array.dtype} values; window the image to 0..1 first")
    return image.copy_with(from_zyxc(result, image.channels))


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
    """One channel, by index or colour name ("red", "green", "blue", "alpha"), without the channel axis."""
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
