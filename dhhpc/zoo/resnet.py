"""Residual networks (He, Zhang, Ren and Sun, 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc import eddl
from dhhpc.eddl.graph import Layer


def resnet18(input_shape: Sequence[int], classes: int, width: int = 64) -> eddl.Model:
    """ResNet-18: a 7x7 stem, four stages of two basic blocks, global average pooling and a dense layer.

    Args:
        input_shape: (channels, height, width), 224x224 in the paper.
        classes: outputs: 1 with a sigmoid, more with a softmax.
        width: channels of the first stage; each further stage doubles them.
    """
    x = eddl.Input(input_shape, name="image")
    y: Layer = convolution(x, width, 7, 2)
    y = eddl.MaxPool2D(eddl.ReLU(y), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            y = basic_block(y, width * 2**stage, stride=2 if stage and not block else 1)
    y = eddl.Dense(eddl.Flatten(eddl.GlobalAveragePool2D(y)), classes, initializer="glorot_normal")
    y = eddl.Sigmoid(y, name="probability") if classes == 1 else eddl.Softmax(y, name="probabilities")
    return eddl.Model([x], [y], name="resnet18")


def basic_block(x: Layer, width: int, stride: int) -> Layer:
    y: Layer = eddl.ReLU(convolution(x, width, 3, stride))
    y = convolution(y, width, 3, 1)
    shortcut = x if stride == 1 and x.shape[0] == width else convolution(x, width, 1, stride)
    return eddl.ReLU(eddl.Add([y, shortcut]))


def convolution(x: Layer, width: int, kernel: int, stride: int) -> Layer:
    return eddl.BatchNormalization(eddl.Conv2D(x, width, kernel, stride, kernel // 2, bias=False))
