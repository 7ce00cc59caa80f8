"""The input, flattening and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape, pair


class Input(Layer):
    """Where images enter: shape (channels, height, width), or (features,), without the batch."""

    options = ("extents",)

    def __init__(self, extents: Sequence[int], name: str | None = None) -> None:
        self.name = name
        self.extents = tuple(int(extent) for extent in extents)
        if not self.extents or min(self.extents) < 1:
            raise self.refuse(f"shape {tuple(extents)} must have positive extents")
        super().__init__(name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.extents

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        """Nothing: the plan copies the batch in."""

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        """Nothing: no gradient goes past the input."""

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        return []


class Flatten(Layer):
    """(channels, height, width) seen as (channels height width,)."""

    operator = "Flatten"
    view = True

    def output_shape(self, *shapes: Shape) -> Shape:
        return (int(np.prod(shapes[0])),)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        """Nothing: the output is the input's memory."""

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        (grad_input,) = buffers.grad_inputs
        if grad_input is not None and not np.shares_memory(grad_input, buffers.grad_output):
            grad_input[...] = buffers.grad_output.reshape(grad_input.shape)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name, axis=1)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if node.attributes.get("axis", 1) != 1:
            raise node.refuse("only axis 1 is supported")
        return cls(node.layers[0])


class UpSampling2D(Layer):
    """Enlarges by a whole factor.

    Args:
        parent: layer of shape (channels, height, width).
        scale: one number or (height, width).
        mode: "nearest", or "bilinear" with pixel centres at half-integers (PyTorch's align_corners=False).
    """

    options = ("scale", "mode")
    operator = "Resize"

    def __init__(
        self, parent: Layer, scale: int | Sequence[int] = 2, mode: str = "nearest", name: str | None = None
    ) -> None:
        self.name = name
        self.scale, self.mode = pair(scale, "scale"), mode
        if mode not in ("nearest", "bilinear"):
            raise self.refuse(f"mode {mode!r} is unknown; choose nearest or bilinear")
        if min(self.scale) < 1:
            raise self.refuse(f"scale {self.scale} must be at least 1")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 3:
            raise self.refuse(f"input of shape {shape} where (channels, height, width) is expected")
        return (shape[0], shape[1] * self.scale[0], shape[2] * self.scale[1])

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.upsample_forward(buffers.inputs[0], buffers.output, self.mode)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.upsample_backward(buffers.grad_output, buffers.grad_inputs[0], self.mode)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        scales = f"{output}.scales"
        linear = self.mode == "bilinear"
        values = np.array([1, 1, *self.scale], np.float32)
        return [
            constant_node(scales, values),
            make_node(
                self.operator,
                [inputs[0], "", scales],
                [output],
                name=self.name,
                mode="linear" if linear else "nearest",
                coordinate_transformation_mode="half_pixel" if linear else "asymmetric",
                nearest_mode="floor",
            ),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        scales = next((constant for constant in node.constants if constant.size == 4), None)
        whole = scales is not None and np.array_equal(scales, np.round(scales)) and np.all(scales[:2] == 1)
        expected = {b"linear": b"half_pixel", b"nearest": b"asymmetric"}
        mode = node.attributes.get("mode", b"nearest")
        transformation = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
        if scales is None or not whole or expected.get(mode) != transformation:
            raise node.refuse(
                "only nearest (asymmetric) and linear (half_pixel) upsampling by whole factors is read"
            )
        return cls(
            node.layers[0], [int(s) for s in scales[2:]], "bilinear" if mode == b"linear" else "nearest"
        )


def constant_node(name: str, values: np.ndarray[Any, Any]) -> Any:
    """An ONNX Constant node that yields `values` under `name`."""
    from onnx.helper import make_node
    from onnx.numpy_helper import from_array

    return make_node("Constant", [], [name], value=from_array(values, name))
