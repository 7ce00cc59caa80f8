"""Layers with several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from dhhpc.eddl.graph import Array, Buffers, Layer, OnnxNode, Shape


class MergingLayer(Layer):
    """A layer over a list of layers."""

    def __init__(self, parents: Sequence[Layer], name: str | None = None) -> None:
        self.name = name
        if not isinstance(parents, Sequence) or len(parents) < 2:
            raise self.refuse("takes a list of two or more layers")
        super().__init__(*parents, name=name)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if node.constants:
            raise node.refuse("has a constant input; export the network without constants in it")
        return cls(node.layers)


class Concat(MergingLayer):
    """The inputs one after another along the channels."""

    writes_every_gradient = True
    operator = "Concat"

    def output_shape(self, *shapes: Shape) -> Shape:
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise self.refuse(
                f"inputs of {describe(shapes)} differ beyond their channels; fit the image size"
            )
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.concatenate_forward(buffers.inputs, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.concatenate_backward(buffers.grad_output, buffers.grad_inputs)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name, axis=1)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if node.attributes.get("axis", 1) % (len(node.layers[0].shape) + 1) != 1:
            raise node.refuse("only concatenation of channels (axis 1) is supported")
        return super().from_onnx(node)


class Add(MergingLayer):
    """The sum of inputs of one shape."""

    operator = "Add"
    in_place = True
    shares_gradient = True

    def output_shape(self, *shapes: Shape) -> Shape:
        if any(shape != shapes[0] for shape in shapes):
            raise self.refuse(f"inputs of {describe(shapes)} cannot be added; they must have one shape")
        return shapes[0]

    def repeats(self, buffers: Buffers) -> bool:
        return not self.copied(buffers)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.add_forward(buffers.inputs, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        for grad_input in self.copied(buffers):
            grad_input[...] = buffers.grad_output

    def copied(self, buffers: Buffers) -> list[Array]:
        """Gradients of inputs that do not lie where the output's does."""
        return [
            gradient
            for gradient in buffers.grad_inputs
            if gradient is not None and gradient is not buffers.grad_output
        ]

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        if len(inputs) > 2:
            from onnx.helper import make_node

            return [make_node("Sum", inputs, [output], name=self.name)]
        return super().to_onnx(inputs, output, parameters)


class PairLayer(MergingLayer):
    """A layer over two layers of one shape."""

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise self.refuse(f"inputs of {describe(shapes)}; takes two of one shape")
        return shapes[0]


class Multiply(PairLayer):
    """The product of two inputs."""

    operator = "Mul"
    backward_uses = frozenset({"inputs"})
    in_place = True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.multiply(*buffers.inputs, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        # The first input's gradient may lie where the output's does, so it comes last.
        for number in (1, 0):
            grad_input = buffers.grad_inputs[number]
            if grad_input is not None:
                kernels.multiply(buffers.grad_output, buffers.inputs[1 - number], grad_input)


class Subtract(PairLayer):
    """The first input less the second."""

    operator = "Sub"
    in_place = True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.subtract(*buffers.inputs, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        first, second = buffers.grad_inputs
        if second is not None:
            kernels.negate(buffers.grad_output, second)
        if first is not None and first is not buffers.grad_output:
            first[...] = buffers.grad_output


class Maximum(PairLayer):
    """The larger of two inputs; of equal ones each gets half the gradient."""

    operator = "Max"
    backward_uses = frozenset({"inputs"})
    writes_every_gradient = True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.maximum_forward(*buffers.inputs, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.maximum_backward(*buffers.inputs, buffers.grad_output, *buffers.grad_inputs)


def describe(shapes: Sequence[Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)
