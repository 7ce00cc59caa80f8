"""Max, average and global pooling in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from dhhpc.eddl.graph import AXES, Buffers, Layer, OnnxNode, Shape, extents


class PoolingLayer(Layer):
    """A window that slides over each channel.

    Output extent along each axis: floor((extent + 2 padding - kernel) / stride) + 1.

    Args:
        parent: layer of shape (channels, length), (channels, height, width) or (channels, depth, height,
            width).
        kernel: window size, one number or one an axis.
        stride: step, the kernel's size unless given.
        padding: on each side, at most half the kernel; padded places never win a maximum nor count in a mean.
    """

    options = ("kernel", "stride", "padding")
    dimensions: ClassVar[int]

    def __init__(
        self,
        parent: Layer,
        kernel: int | Sequence[int] = 2,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        name: str | None = None,
    ) -> None:
        self.name = name
        self.kernel = extents(kernel, self.dimensions, "kernel")
        self.stride = self.kernel if stride is None else extents(stride, self.dimensions, "stride")
        self.padding = extents(padding, self.dimensions, "padding")
        if min(self.kernel + self.stride) < 1 or min(self.padding) < 0:
            raise self.refuse("kernel and stride start at 1, padding at 0")
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise self.refuse(f"padding {self.padding} is more than half of the kernel {self.kernel}")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 1 + self.dimensions:
            axes = ", ".join(("channels", *AXES[self.dimensions]))
            raise self.refuse(f"input of shape {shape} where ({axes}) is expected")
        size = tuple(
            (extent + 2 * padding - kernel) // stride + 1
            for extent, padding, kernel, stride in zip(
                shape[1:], self.padding, self.kernel, self.stride, strict=True
            )
        )
        if min(size) < 1:
            found = "x".join(map(str, shape[1:]))
            raise self.refuse(f"kernel {self.kernel} does not fit in an input of {found}")
        return (shape[0], *size)

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [
            make_node(
                self.operator,
                inputs,
                [output],
                name=self.name,
                kernel_shape=self.kernel,
                strides=self.stride,
                pads=self.padding * 2,
            )
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if node.attributes.get("ceil_mode", 0) or node.attributes.get("count_include_pad", 0):
            raise node.refuse("ceil_mode and count_include_pad are not supported; export without them")
        dimensions = len(node.layers[0].shape) - 1
        kind = POOLS.get((cls.operator, dimensions))
        if kind is None:
            raise node.refuse(f"an input of shape {node.layers[0].shape} cannot be pooled")
        if set(node.numbers("dilations", dimensions, 1)) != {1}:
            raise node.refuse("dilated pooling is not supported; export without it")
        kernel, stride = (node.numbers(name, dimensions, 1) for name in ("kernel_shape", "strides"))
        return kind(node.layers[0], kernel, stride, node.symmetric_padding(dimensions))


class MaxPool(PoolingLayer):
    __doc__ = f"The largest value of each window.\n\n{PoolingLayer.__doc__}"
    operator = "MaxPool"

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return [((batch, *self.output_shape(*shapes)), np.int32)]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.max_pooling_forward(
            buffers.inputs[0], buffers.output, buffers.saved[0], self.kernel, self.stride, self.padding
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.max_pooling_backward(buffers.grad_output, buffers.saved[0], buffers.grad_inputs[0])


class AveragePool(PoolingLayer):
    __doc__ = f"The mean of each window.\n\n{PoolingLayer.__doc__}"
    operator = "AveragePool"

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.average_pooling_forward(
            buffers.inputs[0], buffers.output, self.kernel, self.stride, self.padding
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.average_pooling_backward(
            buffers.grad_output, buffers.grad_inputs[0], self.kernel, self.stride, self.padding
        )


class MaxPool1D(MaxPool):
    """`MaxPool` of lines, (channels, length)."""

    dimensions = 1


class MaxPool2D(MaxPool):
    """`MaxPool` of images, (channels, height, width)."""

    dimensions = 2


class MaxPool3D(MaxPool):
    """`MaxPool` of volumes, (channels, depth, height, width)."""

    dimensions = 3


class AveragePool1D(AveragePool):
    """`AveragePool` of lines, (channels, length)."""

    dimensions = 1


class AveragePool2D(AveragePool):
    """`AveragePool` of images, (channels, height, width)."""

    dimensions = 2


class AveragePool3D(AveragePool):
    """`AveragePool` of volumes, (channels, depth, height, width)."""

    dimensions = 3


POOLS: dict[tuple[str, int], type[PoolingLayer]] = {
    (kind.operator, kind.dimensions): kind
    for kind in (MaxPool1D, MaxPool2D, MaxPool3D, AveragePool1D, AveragePool2D, AveragePool3D)
}


class GlobalPoolingLayer(Layer):
    """One value a channel: (channels, length), (channels, height, width) or (channels, depth, height, width)
    to as many axes, all 1 but the channels."""

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) - 1 not in AXES:
            raise self.refuse(f"input of shape {shape} where channels and one to three axes are expected")
        return (shape[0], *(1 for _ in shape[1:]))

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def window(self, buffers: Buffers) -> tuple[Shape, Shape, Shape]:
        """Kernel, stride and padding of a window that covers a whole channel."""
        size = buffers.inputs[0].shape[2:]
        return size, size, (0,) * len(size)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        return cls(node.layers[0])


class GlobalAveragePool(GlobalPoolingLayer):
    __doc__ = f"The mean of each channel.\n\n{GlobalPoolingLayer.__doc__}"
    operator = "GlobalAveragePool"

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.average_pooling_forward(buffers.inputs[0], buffers.output, *self.window(buffers))

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.average_pooling_backward(buffers.grad_output, buffers.grad_inputs[0], *self.window(buffers))


class GlobalMaxPool(GlobalPoolingLayer):
    __doc__ = f"The largest value of each channel.\n\n{GlobalPoolingLayer.__doc__}"
    operator = "GlobalMaxPool"

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return [((batch, *self.output_shape(*shapes)), np.int32)]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.max_pooling_forward(
            buffers.inputs[0], buffers.output, buffers.saved[0], *self.window(buffers)
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.max_pooling_backward(buffers.grad_output, buffers.saved[0], buffers.grad_inputs[0])


GlobalAveragePool2D = GlobalAveragePool  # its name in version 0.1
