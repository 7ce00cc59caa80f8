"""A small convolutional classifier."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc import eddl
from dhhpc.eddl.graph import Layer


def convnet(
    input_shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (32, 64, 128, 256),
    normalization: bool = False,
) -> eddl.Model:
    """A 3x3 convolution, ReLU and 2x2 max pooling a level, then a dense layer.

    The default channels are those of EDDL's MNIST example.

    Args:
        input_shape: (channels, height, width), at least 2 ** levels high and wide.
        classes: outputs: 1 with a sigmoid, more with a softmax.
        channels: of each level.
        normalization: batch normalisation behind each convolution.
    """
    x = eddl.Input(input_shape, name="image")
    y: Layer = x
    for width in channels:
        y = eddl.Conv2D(y, width, 3, bias=not normalization)
        y = eddl.ReLU(eddl.BatchNormalization(y) if normalization else y)
        y = eddl.MaxPool2D(y, 2)
    y = eddl.Dense(eddl.Flatten(y), classes, initializer="glorot_normal")
    y = eddl.Sigmoid(y, name="probability") if classes == 1 else eddl.Softmax(y, name="probabilities")
    return eddl.Model([x], [y], name="convnet")
