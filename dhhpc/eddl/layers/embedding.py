"""Embedding of whole numbers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Parameter, Shape

# Float32 holds every whole number up to here.
LARGEST = 2**24


class Embedding(Layer):
    """A trained row of `units` numbers for each whole number from 0 to `vocabulary` - 1.

    Args:
        parent: layer of any shape whose values are such numbers, usually an Input of shape (time,).
        vocabulary: how many there are, at most 2 ** 24.
        units: length of a row; the output's shape is the input's with `units` behind it.
        initializer: a name of `dhhpc.eddl.initializers`; with fan (1, 1), so `glorot_normal` has variance 1.

    Raises:
        DhhpcError: an option is out of range; when it runs, a value of the input is.
    """

    options = ("vocabulary", "units", "initializer")
    backward_uses = frozenset({"inputs"})
    operator = "Gather"

    def __init__(
        self,
        parent: Layer,
        vocabulary: int,
        units: int,
        initializer: str = "glorot_normal",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.vocabulary, self.units, self.initializer = int(vocabulary), int(units), initializer
        if not 1 <= self.vocabulary <= LARGEST or self.units < 1:
            raise self.refuse(f"vocabulary {vocabulary} must lie in 1 to {LARGEST}, units {units} above 0")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.units)

    def parameters(self) -> list[Parameter]:
        return [Parameter("weight", (self.vocabulary, self.units), self.initializer)]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        indices = buffers.inputs[0]
        # NaN compares as false, and infinity is no row.
        right = (indices >= 0) & (indices < self.vocabulary) & (indices == np.floor(indices))
        if not right.all():
            wrong = indices[~right][0]
            raise self.refuse(f"value {wrong:g} is no whole number from 0 to {self.vocabulary - 1}")
        kernels.embedding_forward(indices, buffers.parameters[0], buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.embedding_backward(buffers.inputs[0], buffers.grad_output, buffers.gradients[0])
        if buffers.grad_inputs[0] is not None:
            buffers.grad_inputs[0].fill(0)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx import TensorProto
        from onnx.helper import make_node

        numbers = f"{output}.numbers"
        return [
            make_node("Cast", inputs, [numbers], name=numbers, to=TensorProto.INT64),
            make_node(self.operator, [*parameters, numbers], [output], name=self.name, axis=0),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if len(node.constants) != 1 or node.constants[0].ndim != 2 or node.attributes.get("axis", 0):
            raise node.refuse("only an embedding is supported: rows of a constant table")
        return cls(node.layers[0], *node.constants[0].shape)
