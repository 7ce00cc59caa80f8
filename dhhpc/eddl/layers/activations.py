"""Activations; each may overwrite its input, and its gradient is a function of its output."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape


class ActivationLayer(Layer):
    """A function of the input's shape; the kernels are `<function>_forward` and `<function>_backward`."""

    backward_uses = frozenset({"output"})
    in_place = True
    function: ClassVar[str]

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        getattr(kernels, f"{self.function}_forward")(buffers.inputs[0], buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        backward = getattr(kernels, f"{self.function}_backward")
        backward(buffers.output, buffers.grad_output, buffers.grad_inputs[0])

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        return cls(node.layers[0])


class ReLU(ActivationLayer):
    """max(x, 0)."""

    operator = "Relu"
    function = "relu"


class Sigmoid(ActivationLayer):
    """1 / (1 + exp(-x))."""

    operator = "Sigmoid"
    function = "sigmoid"


class Softmax(ActivationLayer):
    """exp(x) / sum exp(x) over the channels (the first axis of the shape)."""

    operator = "Softmax"
    function = "softmax"

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name, axis=1)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        axis = node.attributes.get("axis", -1)
        dimensions = len(node.layers[0].shape) + 1
        if axis % dimensions != 1:
            raise node.refuse(f"axis {axis} is not the channel axis; export it with axis=1")
        return cls(node.layers[0])
