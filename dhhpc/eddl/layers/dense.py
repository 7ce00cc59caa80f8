"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from dhhpc.eddl.graph import Array, Buffers, Layer, OnnxNode, Parameter, Shape

PIECE = 2**20  # weights of a piece: large enough for a good product, small enough for the last-level cache


class Dense(Layer):
    """y = x W^T + b with a weight of shape (units, features).

    Args:
        parent: layer of shape (features,); put a Flatten before it after a convolution.
        units: number of outputs.
        bias: add a bias a unit.
        initializer: a name of `dhhpc.eddl.initializers`.
    """

    options = ("units", "bias", "initializer")
    backward_uses = frozenset({"inputs"})
    operator = "Gemm"

    def __init__(
        self,
        parent: Layer,
        units: int,
        bias: bool = True,
        initializer: str = "he_normal",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.units, self.bias, self.initializer = int(units), bias, initializer
        if self.units < 1:
            raise self.refuse(f"units {units} must be at least 1")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 1:
            raise self.refuse(
                f"input of shape {shapes[0]} where (features,) is expected; put a Flatten before it"
            )
        known = getattr(self, "shape", None)
        if known is not None and shapes[0] != self.parents[0].shape:
            raise self.refuse(f"input of shape {shapes[0]} where its weights take {self.parents[0].shape}")
        return (self.units,)

    def parameters(self) -> list[Parameter]:
        (features,) = self.parents[0].shape
        weight = Parameter("weight", (self.units, features), self.initializer, (features, self.units))
        return [weight, Parameter("bias", (self.units,), "zeros")] if self.bias else [weight]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        weight, *bias = buffers.parameters
        kernels.dense_forward(buffers.inputs[0], weight, bias[0] if bias else None, buffers.output)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        grad_weight, *grad_bias = buffers.gradients
        kernels.dense_backward_weights(
            buffers.inputs[0], buffers.grad_output, grad_weight, grad_bias[0] if grad_bias else None
        )
        self.backward_data(kernels, buffers)

    def backward_data(self, kernels: ModuleType, buffers: Buffers) -> None:
        if buffers.grad_inputs[0] is not None:
            kernels.dense_backward_data(buffers.grad_output, buffers.parameters[0], buffers.grad_inputs[0])

    @property
    def piece_units(self) -> int:
        """Units whose gradient is computed at once where it is not kept."""
        return max(1, PIECE // self.parents[0].shape[0])

    @property
    def updates_early(self) -> bool:
        return self.units > self.piece_units

    def workspace(self, kernels: ModuleType, batch: int, shapes: Sequence[Shape]) -> int:
        return self.piece_units * shapes[0][0] if self.updates_early else 0

    def backward_updating(
        self, kernels: ModuleType, buffers: Buffers, update: Callable[[Array, Array], None]
    ) -> None:
        self.backward_data(kernels, buffers)
        weight, *bias = buffers.parameters
        for first in range(0, self.units, self.piece_units):
            rows = slice(first, first + self.piece_units)
            piece = buffers.workspace[: weight[rows].size].reshape(weight[rows].shape)
            kernels.dense_backward_weights(buffers.inputs[0], buffers.grad_output[:, rows], piece, None)
            update(weight[rows], piece)
        if bias:
            grad_bias = buffers.gradients[1]
            buffers.grad_output.sum(axis=0, out=grad_bias)
            update(bias[0], grad_bias)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs + parameters, [output], name=self.name, transB=1)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        attributes = node.attributes
        plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
        if not plain or attributes.get("transA", 0) or len(node.constants) < 1:
            raise node.refuse("only x W^T + b with constant W is read; export Linear layers")
        if not attributes.get("transB", 0):
            node.constants[0] = node.constants[0].T.copy()
        weight, *bias = node.constants
        return cls(node.layers[0], weight.shape[0], bias=bool(bias))
