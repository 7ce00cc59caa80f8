"""U-Net (Ronneberger, Fischer and Brox, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc import eddl
from dhhpc.eddl.graph import Layer
from dhhpc.errors import DhhpcError


def unet(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (32, 64, 128, 256, 512),
    normalization: bool = True,
    upsampling: str = "transposed",
) -> eddl.Model:
    """An encoder and a decoder joined by skip connections; the output has the input's size.

    Args:
        input_shape: (channels, height, width); height and width multiples of 2 ** (levels - 1).
        classes: output channels: 1 with a sigmoid, more with a softmax.
        channels: of each level, from the image's resolution down.
        normalization: batch normalisation behind each convolution.
        upsampling: "transposed" (a learnt 2x2 transposed convolution), "nearest" or "bilinear" (enlarged,
            then a 1x1 convolution).

    Raises:
        DhhpcError: the size is no such multiple, or an option is unknown.
    """
    if len(channels) < 2:
        raise DhhpcError(f"network unet: channels {list(channels)} must name at least two levels")
    if upsampling not in ("transposed", "nearest", "bilinear"):
        raise DhhpcError(
            f"network unet: upsampling {upsampling!r} is unknown; choose transposed, nearest or bilinear"
        )
    multiple = 2 ** (len(channels) - 1)
    if len(input_shape) != 3 or any(extent % multiple for extent in input_shape[1:]):
        raise DhhpcError(
            f"network unet: images of {'x'.join(map(str, input_shape))} with {len(channels)} levels; "
            f"height and width must be multiples of {multiple}: pad or crop the images, or give fewer levels"
        )
    x = eddl.Input(input_shape, name="image")
    skips: list[Layer] = []
    y: Layer = x
    for level, width in enumerate(channels):
        if level:
            y = eddl.MaxPool2D(y, 2)
        y = double_convolution(y, width, normalization)
        skips.append(y)
    for width, skip in zip(channels[-2::-1], skips[-2::-1], strict=True):
        y = double_convolution(eddl.Concat([skip, enlarge(y, width, upsampling)]), width, normalization)
    y = eddl.Conv2D(y, classes, 1, initializer="glorot_normal")
    y = eddl.Sigmoid(y, name="mask") if classes == 1 else eddl.Softmax(y, name="mask")
    return eddl.Model([x], [y], name="unet")


def double_convolution(x: Layer, width: int, normalization: bool) -> Layer:
    for _ in range(2):
        x = eddl.Conv2D(x, width, 3, bias=not normalization)
        x = eddl.ReLU(eddl.BatchNormalization(x) if normalization else x)
    return x


def enlarge(x: Layer, width: int, upsampling: str) -> Layer:
    if upsampling == "transposed":
        return eddl.ConvTranspose2D(x, width, 2, 2)
    return eddl.Conv2D(eddl.UpSampling2D(x, 2, upsampling), width, 1)
