"""U-Net (Ronneberger, Fischer and Brox, 2015), and for volumes 3D U-Net (Çiçek et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dhhpc import eddl
from dhhpc.eddl.graph import Layer
from dhhpc.errors import DhhpcError


@dataclass(frozen=True)
class Layers:
    """The layers for images or for volumes, and what they call linear interpolation."""

    convolution: type[Any]
    transposed: type[Any]
    pool: type[Any]
    enlarge: type[Any]
    linear: str


LAYERS = {
    2: Layers(eddl.Conv2D, eddl.ConvTranspose2D, eddl.MaxPool2D, eddl.UpSampling2D, "bilinear"),
    3: Layers(eddl.Conv3D, eddl.ConvTranspose3D, eddl.MaxPool3D, eddl.UpSampling3D, "trilinear"),
}


def unet(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (32, 64, 128, 256, 512),
    normalization: bool = True,
    upsampling: str = "transposed",
) -> eddl.Model:
    """An encoder and a decoder joined by skip connections; the output has the input's size.

    Args:
        input_shape: (channels, height, width), or (channels, depth, height, width) for volumes; all but the
            channels are multiples of 2 ** (levels - 1).
        classes: output channels: 1 with a sigmoid, more with a softmax.
        channels: of each level, from the image's resolution down.
        normalization: batch normalisation behind each convolution.
        upsampling: "transposed" (a learnt transposed convolution of size 2), "nearest" or "linear" (enlarged,
            then a convolution of size 1); "bilinear" is another name of "linear".

    Raises:
        DhhpcError: the size is no such multiple, or an option is unknown.
    """
    if len(channels) < 2:
        raise DhhpcError(f"network unet: channels {list(channels)} must name at least two levels")
    if upsampling not in ("transposed", "nearest", "linear", "bilinear"):
        raise DhhpcError(
            f"network unet: upsampling {upsampling!r} is unknown; choose transposed, nearest or linear"
        )
    multiple = 2 ** (len(channels) - 1)
    layers = LAYERS.get(len(input_shape) - 1)
    if layers is None or any(extent % multiple for extent in input_shape[1:]):
        raise DhhpcError(
            f"network unet: images of {'x'.join(map(str, input_shape))} with {len(channels)} levels; "
            f"height and width, and the depth of volumes, must be multiples of {multiple}: pad or crop the "
            "images, or give fewer levels"
        )
    x = eddl.Input(input_shape, name="image")
    skips: list[Layer] = []
    y: Layer = x
    for level, width in enumerate(channels):
        if level:
            y = layers.pool(y, 2)
        y = double_convolution(layers, y, width, normalization)
        skips.append(y)
    for width, skip in zip(channels[-2::-1], skips[-2::-1], strict=True):
        y = eddl.Concat([skip, enlarge(layers, y, width, upsampling)])
        y = double_convolution(layers, y, width, normalization)
    y = layers.convolution(y, classes, 1, initializer="glorot_normal")
    y = eddl.Sigmoid(y, name="mask") if classes == 1 else eddl.Softmax(y, name="mask")
    return eddl.Model([x], [y], name="unet")


def double_convolution(layers: Layers, x: Layer, width: int, normalization: bool) -> Layer:
    for _ in range(2):
        x = layers.convolution(x, width, 3, bias=not normalization)
        x = eddl.ReLU(eddl.BatchNormalization(x) if normalization else x)
    return x


def enlarge(layers: Layers, x: Layer, width: int, upsampling: str) -> Layer:
    if upsampling == "transposed":
        return layers.transposed(x, width, 2, 2)
    mode = "nearest" if upsampling == "nearest" else layers.linear
    return layers.convolution(layers.enlarge(x, 2, mode), width, 1)
