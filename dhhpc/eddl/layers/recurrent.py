"""Recurrent layers over sequences of shape (time, features)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from dhhpc.eddl.graph import Array, Buffers, Layer, OnnxNode, Parameter, Shape
from dhhpc.eddl.layers.reshaping import constant_node


class RecurrentLayer(Layer):
    """A layer that reads a sequence step by step and carries `units` hidden numbers on, zero at first.

    Several of them are stacked by feeding one with the sequences of another. The parameters lie as ONNX has
    them: `weight` (1, gates units, features), `recurrent_weight` (1, gates units, units), and `bias`
    (1, 2 gates units), that of the input before that of the hidden numbers.

    Args:
        parent: layer of shape (time, features).
        units: number of hidden numbers.
        return_sequences: give those after each step, shape (time, units), or those after the last, (units,).
        initializer: of both weights, a name of `dhhpc.eddl.initializers`; biases start at 0.

    Raises:
        DhhpcError: the options are wrong or do not fit the input's shape.
    """

    options: ClassVar[tuple[str, ...]] = ("units", "return_sequences", "initializer")
    backward_uses = frozenset({"inputs"})
    gates: ClassVar[int]
    kind: str

    def __init__(
        self,
        parent: Layer,
        units: int,
        return_sequences: bool = False,
        initializer: str = "glorot_uniform",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.units, self.return_sequences, self.initializer = int(units), return_sequences, initializer
        if self.units < 1:
            raise self.refuse(f"units {units} must be at least 1")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) != 2:
            raise self.refuse(f"input of shape {shapes[0]} where (time, features) is expected")
        if hasattr(self, "shape") and shapes[0][1] != self.parents[0].shape[1]:
            raise self.refuse(f"input of shape {shapes[0]} where its weights take {self.parents[0].shape}")
        return (shapes[0][0], self.units) if self.return_sequences else (self.units,)

    def parameters(self) -> list[Parameter]:
        features, rows = self.parents[0].shape[1], self.gates * self.units
        return [
            Parameter("weight", (1, rows, features), self.initializer, (features, self.units)),
            Parameter("recurrent_weight", (1, rows, self.units), self.initializer, (self.units, self.units)),
            Parameter("bias", (1, 2 * rows), "zeros"),
        ]

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        rows, time = self.gates * self.units, shapes[0][0]
        states = ((batch, time, self.units), np.float32)
        memory = [states] if self.gates > 1 else []
        return [((batch, time, rows), np.float32), states, *memory]

    def workspace(self, kernels: ModuleType, batch: int, shapes: Sequence[Shape]) -> int:
        return int(kernels.recurrent_workspace(self.kind, batch, *shapes[0], self.units))

    def kept(self, buffers: Buffers) -> tuple[Array, Array, Array | None]:
        """What forward saved: gates, hidden states and memory."""
        gates, hidden, *memory = buffers.saved
        return gates, hidden, memory[0] if memory else None

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.recurrent_forward(
            self.kind,
            buffers.inputs[0],
            *buffers.parameters,
            buffers.output,
            *self.kept(buffers),
            buffers.workspace,
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.recurrent_backward(
            self.kind,
            buffers.inputs[0],
            *buffers.parameters[:2],
            buffers.grad_output,
            *self.kept(buffers),
            buffers.grad_inputs[0],
            *buffers.gradients,
            buffers.workspace,
        )

    def onnx_attributes(self) -> dict[str, Any]:
        return {"hidden_size": self.units}

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        """ONNX has the time first: the sequences are transposed before and after."""
        from onnx.helper import make_node

        turned, found, axis = f"{output}.time_first", f"{output}.directions", f"{output}.axis"
        outputs = [found] if self.return_sequences else ["", found]
        nodes = [
            make_node("Transpose", inputs, [turned], name=turned, perm=(1, 0, 2)),
            make_node(
                self.operator, [turned, *parameters], outputs, name=self.name, **self.onnx_attributes()
            ),
            constant_node(axis, np.array([1 if self.return_sequences else 0], np.int64)),
        ]
        if not self.return_sequences:
            return [*nodes, make_node("Squeeze", [found, axis], [output], name=f"{output}.squeeze")]
        squeezed = f"{output}.steps"
        return [
            *nodes,
            make_node("Squeeze", [found, axis], [squeezed], name=squeezed),
            make_node("Transpose", [squeezed], [output], name=f"{output}.samples_first", perm=(1, 0, 2)),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        """The layer of a node whose constants are weight, recurrent weight, and perhaps bias.

        Beside ONNX's own attributes it reads `return_sequences`: which of the node's outputs is used.
        """
        attributes = node.attributes
        weight, recurrent_weight, *bias = node.constants
        if attributes.get("direction", b"forward") != b"forward" or weight.shape[0] != 1:
            raise node.refuse("only the direction forward is supported; export one direction")
        if "clip" in attributes or attributes.get("input_forget", 0):
            raise node.refuse("clip and input_forget are not supported; export without them")
        node.constants = [
            weight,
            recurrent_weight,
            *(bias or [np.zeros((1, 2 * weight.shape[1]), np.float32)]),
        ]
        sequences = node.attributes["return_sequences"]
        return cls(node.layers[0], recurrent_weight.shape[2], sequences, **cls.onnx_options(node))

    @classmethod
    def onnx_options(cls, node: OnnxNode) -> dict[str, Any]:
        """Further options of the constructor; refuses other activations than the operator's own."""
        given = node.attributes.get("activations", cls.usual_activations)
        if [name.lower() for name in given] != [name.lower() for name in cls.usual_activations]:
            found = ", ".join(name.decode() for name in given)
            raise node.refuse(f"only the usual activations are supported, found {found}; export those")
        return {}

    usual_activations: ClassVar[tuple[bytes, ...]] = (b"Sigmoid", b"Tanh", b"Tanh")


class LSTM(RecurrentLayer):
    """Long short-term memory with a forget gate, without peepholes (Hochreiter and Schmidhuber, 1997; Gers,
    Schmidhuber and Cummins, 2000); gates in the order input, output, forget, cell. Args: see
    RecurrentLayer."""

    operator = "LSTM"
    gates = 4
    kind = "lstm"


class GRU(RecurrentLayer):
    """Gated recurrent unit (Cho et al., 2014) whose reset gate scales the recurrent product, as in cuDNN and
    PyTorch; gates in the order update, reset, hidden. Args: see RecurrentLayer."""

    operator = "GRU"
    gates = 3
    kind = "gru"
    usual_activations = (b"Sigmoid", b"Tanh")

    def onnx_attributes(self) -> dict[str, Any]:
        return super().onnx_attributes() | {"linear_before_reset": 1}

    @classmethod
    def onnx_options(cls, node: OnnxNode) -> dict[str, Any]:
        if not node.attributes.get("linear_before_reset", 0):
            raise node.refuse("only linear_before_reset=1 is supported; export the GRU of PyTorch")
        return super().onnx_options(node)


class RNN(RecurrentLayer):
    """Simple recurrent layer (Elman, 1990): h = activation(W x + R h + biases).

    Args:
        parent, units, return_sequences, initializer: see RecurrentLayer.
        activation: "tanh" or "relu".
    """

    options = ("units", "return_sequences", "activation", "initializer")
    operator = "RNN"
    gates = 1

    def __init__(
        self,
        parent: Layer,
        units: int,
        return_sequences: bool = False,
        activation: str = "tanh",
        initializer: str = "glorot_uniform",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.activation, self.kind = activation, f"rnn_{activation}"
        if activation not in ("tanh", "relu"):
            raise self.refuse(f"activation {activation!r} is unknown; choose tanh or relu")
        super().__init__(parent, units, return_sequences, initializer, name)

    def onnx_attributes(self) -> dict[str, Any]:
        return super().onnx_attributes() | {"activations": [self.activation.capitalize()]}

    @classmethod
    def onnx_options(cls, node: OnnxNode) -> dict[str, Any]:
        (activation,) = node.attributes.get("activations", (b"Tanh",))
        if activation.lower() not in (b"tanh", b"relu"):
            raise node.refuse(f"activation {activation.decode()} is not supported; export Tanh or Relu")
        return {"activation": activation.decode().lower()}
