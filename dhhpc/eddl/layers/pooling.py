"""Max, average and global average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape, pair


class PoolingLayer(Layer):
    """A window that slides over each channel.

    Output height: floor((height + 2 padding - kernel) / stride) + 1; width alike.

    Args:
        parent: layer of shape (channels, height, width).
        kernel: window size, one number or (height, width).
        stride: step, the kernel's size unless given.
        padding: on each side, at most half the kernel; padded places never win a maximum nor count in a mean.
    """

    options = ("kernel", "stride", "padding")

    def __init__(
        self,
        parent: Layer,
        kernel: int | Sequence[int] = 2,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        name: str | None = None,
    ) -> None:
        self.name = name
        self.kernel = pair(kernel, "kernel")
        self.stride = self.kernel if stride is None else pair(stride, "stride")
        self.padding = pair(padding, "padding")
        if min(self.kernel + self.stride) < 1 or min(self.padding) < 0:
            raise self.refuse("kernel and stride start at 1, padding at 0")
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise self.refuse(f"padding {self.padding} is more than half of the kernel {self.kernel}")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 3:
            raise self.refuse(f"input of shape {shape} where (channels, height, width) is expected")
        size = tuple(
            (extent + 2 * padding - kernel) // stride + 1
            for extent, padding, kernel, stride in zip(
                shape[1:], self.padding, self.kernel, self.stride, strict=True
            )
        )
        if min(size) < 1:
            raise self.refuse(f"kernel {self.kernel} does not fit in an input of {shape[1]}x{shape[2]}")
        return (shape[0], *size)

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
        if node.pair("dilations", (1, 1)) != (1, 1):
            raise node.refuse("dilated pooling is not supported; export without it")
        kernel = node.pair("kernel_shape", (1, 1))
        return cls(node.layers[0], kernel, node.pair("strides", (1, 1)), node.padding())


class MaxPool2D(PoolingLayer):
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


class AveragePool2D(PoolingLayer):
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


class GlobalAveragePool2D(Layer):
    """The mean of each channel: (channels, height, width) to (channels, 1, 1)."""

    operator = "GlobalAveragePool"

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 3:
            raise self.refuse(f"input of shape {shapes[0]} where (channels, height, width) is expected")
        return (shapes[0][0], 1, 1)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        window = buffers.inputs[0].shape[2:]
        kernels.average_pooling_forward(buffers.inputs[0], buffers.output, window, window, (0, 0))

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        (grad_input,) = buffers.grad_inputs
        if grad_input is not None:
            window = grad_input.shape[2:]
            kernels.average_pooling_backward(buffers.grad_output, grad_input, window, window, (0, 0))

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        return cls(node.layers[0])
