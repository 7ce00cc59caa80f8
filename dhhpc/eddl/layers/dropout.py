"""Dropout."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Buffers, Layer, OnnxNode, Shape
from dhhpc.eddl.layers.reshaping import constant_node


class Dropout(Layer):
    """In training each element becomes 0 with probability `rate`, or else x / (1 - rate); at inference all
    stay as they are (Srivastava et al., 2014).

    Which elements depends on the model's seed, this layer's place in the model, the optimizer's steps so far
    and the element, so it is the same for any number of threads and ranks and after a resumption.

    Args:
        parent: layer of any shape.
        rate: from 0 on, below 1.
    """

    options = ("rate",)
    in_place = True
    operator = "Dropout"

    def __init__(self, parent: Layer, rate: float = 0.5, name: str | None = None) -> None:
        self.name = name
        self.rate = float(rate)
        if not 0 <= self.rate < 1:
            raise self.refuse(f"rate {rate} must lie in [0, 1)")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        x, out = buffers.inputs[0], buffers.output
        if training:
            self.drop(kernels, x, out, buffers)
        elif not np.may_share_memory(x, out):
            out[...] = x

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        self.drop(kernels, buffers.grad_output, buffers.grad_inputs[0], buffers)

    def drop(self, kernels: ModuleType, x: Array, out: Array | None, buffers: Buffers) -> None:
        drawn = buffers.randomness
        kernels.dropout(x, out, self.rate, drawn.seed, buffers.position, drawn.step, drawn.first_sample)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        rate = f"{output}.rate"
        return [
            constant_node(rate, np.array(self.rate, np.float32)),
            make_node(self.operator, [*inputs, rate], [output], name=self.name),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        # Up to opset 11 the rate is an attribute; a boolean constant is training_mode.
        given = [float(constant) for constant in node.constants if constant.dtype != np.bool_]
        return cls(node.layers[0], round(given[0] if given else node.attributes.get("ratio", 0.5), 7))
