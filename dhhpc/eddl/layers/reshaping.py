"""The input and flattening."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape


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

    def repeats(self, buffers: Buffers) -> bool:
        return True

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


def constant_node(name: str, values: np.ndarray[Any, Any]) -> Any:
    """An ONNX Constant node that yields `values` under `name`."""
    from onnx.helper import make_node
    from onnx.numpy_helper import from_array

    return make_node("Constant", [], [name], value=from_array(values, name))
