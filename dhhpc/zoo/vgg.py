"""VGG (Simonyan and Zisserman, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc import eddl
from dhhpc.eddl.graph import Layer
from dhhpc.errors import DhhpcError


def vgg16(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (64, 128, 256, 512, 512),
    units: int = 4096,
    dropout: float = 0.5,
    normalization: bool = False,
) -> eddl.Model:
    """VGG-16, the paper's configuration D: 13 convolutions in five levels, then three dense layers.

    Args:
        input_shape: (channels, height, width), 224x224 in the paper; at least 2 ** 5 high and wide.
        classes: outputs: 1 with a sigmoid, more with a softmax.
        channels: of each of the five levels.
        units: of the two hidden dense layers.
        dropout: rate behind each hidden dense layer.
        normalization: batch normalisation behind each convolution.

    Raises:
        DhhpcError: another number of levels than five.
    """
    depths = (2, 2, 3, 3, 3)
    if len(channels) != len(depths):
        raise DhhpcError(f"network vgg16: channels {list(channels)} must name {len(depths)} levels")
    x = eddl.Input(input_shape, name="image")
    y: Layer = x
    for width, depth in zip(channels, depths, strict=True):
        for _ in range(depth):
            y = eddl.Conv2D(y, width, 3, bias=not normalization)
            y = eddl.ReLU(eddl.BatchNormalization(y) if normalization else y)
        y = eddl.MaxPool2D(y, 2)
    y = eddl.Flatten(y)
    for _ in range(2):
        y = eddl.Dropout(eddl.ReLU(eddl.Dense(y, units)), dropout)
    y = eddl.Dense(y, classes, initializer="glorot_normal")
    y = eddl.Sigmoid(y, name="probability") if classes == 1 else eddl.Softmax(y, name="probabilities")
    return eddl.Model([x], [y], name="vgg16")
