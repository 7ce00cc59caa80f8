"""Activations; each may overwrite its input, and most gradients are a function of the output."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape


class ActivationLayer(Layer):
    """A function of the input's shape; the kernels are `<function>_forward` and `<function>_backward`."""

    backward_uses = frozenset({"output"})
    in_place = True
    function: ClassVar[str]
    slope: float | None = None  # if the function is x, or slope x below 0

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def repeats(self, buffers: Buffers) -> bool:
        return True

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
    slope = 0.0
    adds_gradients = True

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.relu_backward(
            buffers.output, buffers.grad_output, buffers.grad_inputs[0], buffers.grad_addend
        )


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


class PointwiseActivation(ActivationLayer):
    """A function of each element, one of `activation_forward` of the kernels."""

    alpha: float = 1.0
    scale: float = 1.0

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.activation_forward(self.function, buffers.inputs[0], buffers.output, self.alpha, self.scale)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        source = buffers.inputs[0] if "inputs" in self.backward_uses else buffers.output
        kernels.activation_backward(
            self.function, source, buffers.grad_output, buffers.grad_inputs[0], self.alpha, self.scale
        )


class SlopedActivation(PointwiseActivation):
    """An activation with an option `alpha`, at least 0."""

    options = ("alpha",)
    onnx_alpha: ClassVar[float]

    def __init__(self, parent: Layer, alpha: float | None = None, name: str | None = None) -> None:
        self.name = name
        self.alpha = self.onnx_alpha if alpha is None else float(alpha)
        if not self.alpha >= 0:
            raise self.refuse(f"alpha {alpha} must be at least 0")
        super().__init__(parent, name=name)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        return [make_node(self.operator, inputs, [output], name=self.name, alpha=self.alpha)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        return cls(node.layers[0], round(node.attributes.get("alpha", cls.onnx_alpha), 7))


class LeakyReLU(SlopedActivation):
    """x, or alpha x below 0 (Maas et al., 2013)."""

    operator = "LeakyRelu"
    function = "leaky_relu"
    onnx_alpha = 0.01

    def __init__(self, parent: Layer, alpha: float | None = None, name: str | None = None) -> None:
        super().__init__(parent, alpha, name=name)
        self.slope = self.alpha


class ELU(SlopedActivation):
    """x, or alpha (exp(x) - 1) below 0 (Clevert et al., 2016)."""

    operator = "Elu"
    function = "elu"
    onnx_alpha = 1.0


class SELU(PointwiseActivation):
    """ELU with the alpha and the scale that keep mean 0 and variance 1 (Klambauer et al., 2017)."""

    operator = "Selu"
    function = "elu"
    alpha = 1.6732632423543772
    scale = 1.0507009873554805

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        alpha, scale = node.attributes.get("alpha", cls.alpha), node.attributes.get("gamma", cls.scale)
        if abs(alpha - cls.alpha) > 1e-5 or abs(scale - cls.scale) > 1e-5:
            raise node.refuse(f"alpha {alpha} and gamma {scale} are not SELU's")
        return cls(node.layers[0])


class Tanh(PointwiseActivation):
    """The hyperbolic tangent."""

    operator = "Tanh"
    function = "tanh"


class Softplus(PointwiseActivation):
    """log(1 + exp(x))."""

    operator = "Softplus"
    function = "softplus"


class Softsign(PointwiseActivation):
    """x / (1 + |x|)."""

    operator = "Softsign"
    function = "softsign"


class HardSigmoid(PointwiseActivation):
    """x / 5 + 1/2, kept within 0 and 1."""

    operator = "HardSigmoid"
    function = "hard_sigmoid"

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
        if abs(alpha - 0.2) > 1e-6 or beta != 0.5:
            raise node.refuse(f"alpha {alpha} and beta {beta} are not 0.2 and 0.5")
        return cls(node.layers[0])


class Exponential(PointwiseActivation):
    """exp(x)."""

    operator = "Exp"
    function = "exponential"


class SiLU(PointwiseActivation):
    """x / (1 + exp(-x)), also called Swish (Ramachandran et al., 2017)."""

    backward_uses = frozenset({"inputs"})
    function = "silu"

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        gate = f"{output}.gate"  # an operator of its own is too new for most runtimes
        return [
            make_node("Sigmoid", inputs, [gate], name=gate),
            make_node("Mul", [*inputs, gate], [output], name=self.name),
        ]


class GELU(PointwiseActivation):
    """x times the normal distribution function of x (Hendrycks and Gimpel, 2016)."""

    backward_uses = frozenset({"inputs"})
    operator = "Gelu"
    opset = 20
    function = "gelu"

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        if node.attributes.get("approximate", b"none") != b"none":
            raise node.refuse("only the exact form is read; export it with approximate='none'")
        return cls(node.layers[0])
