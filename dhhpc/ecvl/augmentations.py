"""Random changes of training samples: every epoch sees each sample a little different.

Each augmentation takes (image float32 (C, H, W), mask (H, W) or (C, H, W) or None, region likewise,
generator) and returns the three with the same shapes and dtypes. All randomness comes from the generator, so
a seed gives a sample. Geometric ones move mask and region with the image, by nearest neighbour; images are
taken as float32 in about [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field

from dhhpc.documents import Document

Sample = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
Probability = Annotated[float, Field(ge=0, le=1)]
BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "constant": cv2.BORDER_CONSTANT}


class RandomStep(Document):
    """Applied with `probability`.

    One draw decides, so the number of later draws may differ between samples.
    """

    probability: Probability = 1.0

    def apply(
        self, image: np.ndarray, mask: np.ndarray | None, region: np.ndarray | None, rng: np.random.Generator
    ) -> Sample:
        if rng.random() >= self.probability:
            return image, mask, region
        return self.change(image, mask, region, rng)

    def change(
        self, image: np.ndarray, mask: np.ndarray | None, region: np.ndarray | None, rng: np.random.Generator
    ) -> Sample:
        return self.change_values(image, rng).astype(np.float32, copy=False), mask, region

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError


class RandomFlip(RandomStep):
    """Mirror along each of the axes ("y", "x" or "yx"), each with `probability` of its own."""

    name: Literal["flip"] = "flip"
    axes: Annotated[str, Field(pattern="^(y|x|yx|xy)$")] = "x"
    probability: Probability = 0.5

    def apply(
        self, image: np.ndarray, mask: np.ndarray | None, region: np.ndarray | None, rng: np.random.Generator
    ) -> Sample:
        axes = tuple({"y": -2, "x": -1}[axis] for axis in self.axes if rng.random() < self.probability)
        if not axes:
            return image, mask, region
        return together(lambda array: np.ascontiguousarray(np.flip(array, axes)), image, mask, region)


class RandomRotate90(RandomStep):
    """0 to 3 quarter turns; where height and width differ, 0 or 2, so that the shape stays."""

    name: Literal["rotate90"] = "rotate90"

    def change(
        self, image: np.ndarray, mask: np.ndarray | None, region: np.ndarray | None, rng: np.random.Generator
    ) -> Sample:
        square = image.shape[-1] == image.shape[-2]
        times = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
        return together(
            lambda array: np.ascontiguousarray(np.rot90(array, times, (-2, -1))), image, mask, region
        )


class RandomRotate(RandomStep):
    """Rotate by up to `max_degrees` to either side and magnify by up to a factor 1 + `max_scale` either way.

    Otate by up to `max_degrees` to either side and magnify by up to a factor 1 + `max_scale` either way.
    """

    name: Literal["rotate"] = "rotate"
    max_degrees: float = Field(15.0, ge=0, le=180)
    max_scale: float = Field(0.0, ge=0, lt=1)
    border: Literal["reflect", "constant"] = "reflect"

    def change(
        self, image: np.ndarray, mask: np.ndarray | None, region: np.ndarray | None, rng: np.random.Generator
    ) -> Sample:
        degrees = float(rng.uniform(-self.max_degrees, self.max_degrees))
        limit = float(np.log1p(self.max_scale))
        scale = float(np.exp(rng.uniform(-limit, limit)))
        height, width = image.shape[-2:]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)

        def turned(plane: np.ndarray, interpolation: int) -> np.ndarray:
            return cv2.warpAffine(
                plane,
                matrix,
                (width, height),
                flags=interpolation,
                borderMode=BORDERS[self.border],
                borderValue=0,
            )

        return (
            over_channels(image, lambda plane: turned(plane, cv2.INTER_LINEAR)),
            None if mask is None else over_channels(mask, lambda plane: turned(plane, cv2.INTER_NEAREST)),
            None if region is None else over_channels(region, lambda plane: turned(plane, cv2.INTER_NEAREST)),
        )


class RandomIntensity(RandomStep):
    """value * a + b around the image's mean: a in 1 +- `contrast`, b in +- `brightness`."""

    name: Literal["intensity"] = "intensity"
    contrast: float = Field(0.1, ge=0, lt=1)
    brightness: float = Field(0.1, ge=0)

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = np.float32(rng.uniform(1 - self.contrast, 1 + self.contrast))
        offset = np.float32(rng.uniform(-self.brightness, self.brightness))
        mean = image.mean(axis=(-2, -1), keepdims=True, dtype=np.float64).astype(np.float32)
        return (image - mean) * factor + mean + offset


class RandomGamma(RandomStep):
    """value ** gamma with gamma log-uniform between `low` and `high`, for values in [0, 1].

    Others are clipped.
    """

    name: Literal["gamma"] = "gamma"
    low: float = Field(0.7, gt=0)
    high: float = Field(1.4, gt=0)

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        ends = np.log(sorted((self.low, self.high)))
        return np.clip(image, 0, 1) ** np.float32(np.exp(rng.uniform(*ends)))


class RandomNoise(RandomStep):
    """Additive Gaussian noise with a standard deviation between 0 and `deviation`."""

    name: Literal["noise"] = "noise"
    deviation: float = Field(0.02, ge=0)

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        strength = np.float32(rng.uniform(0, self.deviation))
        return image + strength * rng.standard_normal(image.shape, dtype=np.float32)


class RandomBlur(RandomStep):
    """Gaussian blur with a standard deviation between 0 and `max_sigma` pixels."""

    name: Literal["blur"] = "blur"
    max_sigma: float = Field(1.0, gt=0)

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sigma = float(rng.uniform(0, self.max_sigma))
        if sigma < 0.1:  # narrower than the kernel of one pixel
            return image
        return over_channels(image, lambda plane: cv2.GaussianBlur(plane, (0, 0), sigma))


class RandomDropout(RandomStep):
    """Up to `count` rectangles of at most `size` (a part of height and width) set to 0; the mask stays."""

    name: Literal["dropout"] = "dropout"
    count: int = Field(4, ge=1)
    size: float = Field(0.1, gt=0, le=1)

    def change_values(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = image.copy()
        height, width = image.shape[-2:]
        for _ in range(int(rng.integers(1, self.count + 1))):
            rows = int(rng.integers(1, max(2, int(height * self.size) + 1)))
            columns = int(rng.integers(1, max(2, int(width * self.size) + 1)))
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            image[..., top : top + rows, left : left + columns] = 0
        return image


Augmentation = Annotated[
    RandomFlip | RandomRotate90 | RandomRotate | RandomIntensity | RandomGamma
    | RandomNoise | RandomBlur | RandomDropout,
    Field(discriminator="name"),
]  # fmt: skip


def together(
    function: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    mask: np.ndarray | None,
    region: np.ndarray | None,
) -> Sample:
    """The same exact move for all three."""
    return (
        function(image),
        None if mask is None else function(mask),
        None if region is None else function(region),
    )


def over_channels(array: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply an OpenCV function to every (H, W) plane of (H, W) or (C, H, W).

    Dtypes foreign to OpenCV go by float32.
    """
    dtype = (
        array.dtype if array.dtype in (np.uint8, np.uint16, np.int16, np.float32) else np.dtype(np.float32)
    )
    planes = array.reshape(-1, *array.shape[-2:])
    result = np.empty_like(planes)
    for source, target in zip(planes, result, strict=True):
        target[...] = function(np.ascontiguousarray(source, dtype=dtype))
    return result.reshape(array.shape)
