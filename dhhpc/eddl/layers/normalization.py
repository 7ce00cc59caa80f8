"""Batch, group, instance and layer normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Buffers, Layer, OnnxNode, Parameter, Shape


class BatchNormalization(Layer):
    """Per channel: gamma (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy, 2015).

    Training uses the batch's mean and variance and moves the running ones by `momentum` towards them (the
    running variance is the unbiased one); inference uses the running ones. The batch is that of all ranks
    where `Model.sum_over_ranks` says so.

    Args:
        parent: layer of shape (channels, height, width) or (features,).
        momentum: share of the new batch in the running statistics.
        epsilon: added to the variance.
    """

    options = ("momentum", "epsilon")
    backward_uses = frozenset({"inputs"})
    in_place = True
    writes_every_gradient = True
    adds_gradients = True
    operator = "BatchNormalization"

    def __init__(
        self, parent: Layer, momentum: float = 0.1, epsilon: float = 1e-5, name: str | None = None
    ) -> None:
        self.name = name
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        if not 0 < self.momentum <= 1 or self.epsilon <= 0:
            raise self.refuse(f"momentum {momentum} must lie in (0, 1] and epsilon {epsilon} above 0")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def parameters(self) -> list[Parameter]:
        channels = self.parents[0].shape[:1]
        return [Parameter("gamma", channels, "ones"), Parameter("beta", channels, "zeros")]

    def statistics(self) -> list[Parameter]:
        channels = self.parents[0].shape[:1]
        return [
            Parameter("running_mean", channels, "zeros"),
            Parameter("running_variance", channels, "ones"),
        ]

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return [(shapes[0][:1], np.float32), (shapes[0][:1], np.float32)]

    def repeats(self, buffers: Buffers) -> bool:
        return buffers.sum_over_ranks.add is None

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        self.forward_into(kernels, buffers, training)

    def forward_into(
        self,
        kernels: ModuleType,
        buffers: Buffers,
        training: bool,
        skip: Array | None = None,
        slope: float = 1,
    ) -> None:
        """`forward` of the last input, plus `skip`, and times `slope` below 0."""
        x, arrays = buffers.inputs[-1], (*buffers.parameters, *buffers.statistics, buffers.output)
        if training:
            rates = self.momentum, self.epsilon
            ranks = buffers.sum_over_ranks if buffers.sum_over_ranks.add else None
            kernels.batch_normalization_training(x, *arrays, *buffers.saved, *rates, skip, slope, ranks)
        else:
            kernels.batch_normalization_inference(x, *arrays, self.epsilon, skip, slope)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        self.backward_into(kernels, buffers)

    def backward_into(
        self,
        kernels: ModuleType,
        buffers: Buffers,
        output: Array | None = None,
        grad_skip: Array | None = None,
        slope: float = 1,
    ) -> None:
        """`backward` of `forward_into`; needs its output if it had a skip."""
        kernels.batch_normalization_backward(
            buffers.inputs[-1],
            buffers.grad_output,
            *buffers.parameters,
            *buffers.saved,
            buffers.grad_inputs[-1],
            *buffers.gradients,
            buffers.grad_addend,
            output,
            grad_skip,
            slope,
            buffers.sum_over_ranks if buffers.sum_over_ranks.add else None,
        )

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        # ONNX's momentum is the share of the OLD statistics.
        attributes: dict[str, Any] = {"epsilon": self.epsilon, "momentum": 1 - self.momentum}
        return [make_node(self.operator, inputs + parameters, [output], name=self.name, **attributes)]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        momentum = 1 - node.attributes.get("momentum", 0.9)
        return cls(node.layers[0], round(momentum, 6), round(node.attributes.get("epsilon", 1e-5), 12))


class SampleNormalization(Layer):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta with the mean and variance of groups of a sample's
    elements, in training and at inference alike.

    A subclass defines `weights_shape` and `split`.
    """

    backward_uses = frozenset({"inputs"})
    writes_every_gradient = True

    def __init__(self, parent: Layer, epsilon: float, name: str | None) -> None:
        self.name = name
        self.epsilon = float(epsilon)
        if self.epsilon <= 0:
            raise self.refuse(f"epsilon {epsilon} must lie above 0")
        super().__init__(parent, name=name)

    def weights_shape(self) -> Shape:
        """The shape of gamma and of beta."""
        raise NotImplementedError

    def split(self, shape: Shape) -> tuple[int, int]:
        """Of a sample of `shape`: how many equal pieces take all weights each, and a piece's groups."""
        raise NotImplementedError

    def output_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def parameters(self) -> list[Parameter]:
        shape = self.weights_shape()
        return [Parameter("gamma", shape, "ones"), Parameter("beta", shape, "zeros")]

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        rows = (batch * math.prod(self.split(shapes[0])),)
        return [(rows, np.float32), (rows, np.float32)]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        pieces, groups = self.split(buffers.output.shape[1:])
        kernels.group_normalization_forward(
            in_pieces(buffers.inputs[0], pieces),
            *buffers.parameters,
            in_pieces(buffers.output, pieces),
            *buffers.saved,
            groups,
            self.epsilon,
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        pieces, groups = self.split(buffers.output.shape[1:])
        (grad_input,) = buffers.grad_inputs
        assert grad_input is not None  # writes_every_gradient
        kernels.group_normalization_backward(
            in_pieces(buffers.inputs[0], pieces),
            in_pieces(buffers.grad_output, pieces),
            buffers.parameters[0],
            *buffers.saved,
            in_pieces(grad_input, pieces),
            *buffers.gradients,
            groups,
        )

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        attributes = {"epsilon": self.epsilon, **self.onnx_attributes()}
        return [make_node(self.operator, inputs + parameters, [output], name=self.name, **attributes)]

    def onnx_attributes(self) -> dict[str, Any]:
        """The attributes beside epsilon."""
        return {}


def in_pieces(array: Array, pieces: int) -> Array:
    """An array (batch, ...) as (batch * pieces, ...), never a copy."""
    return array.reshape(array.shape[0] * pieces, -1, copy=False)


def onnx_epsilon(node: OnnxNode) -> float:
    return round(node.attributes.get("epsilon", 1e-5), 12)


class LayerNormalization(SampleNormalization):
    """Mean and variance of each sample, or of its last axes; a weight an element (Ba et al., 2016).

    Args:
        parent: layer of any shape.
        dimensions: how many of the last axes are normalised together; all unless given.
        epsilon: added to the variance.
    """

    options = ("dimensions", "epsilon")
    operator = "LayerNormalization"

    def __init__(
        self, parent: Layer, dimensions: int | None = None, epsilon: float = 1e-5, name: str | None = None
    ) -> None:
        self.name = name
        self.dimensions = len(parent.shape) if dimensions is None else int(dimensions)
        if not 1 <= self.dimensions <= len(parent.shape):
            raise self.refuse(f"dimensions {dimensions} do not fit an input of shape {parent.shape}")
        super().__init__(parent, epsilon, name)

    def output_shape(self, *shapes: Shape) -> Shape:
        if shapes[0][-self.dimensions :] != self.weights_shape():
            raise self.refuse(
                f"input of shape {shapes[0]} where its weights take {self.weights_shape()} at the end"
            )
        return shapes[0]

    def weights_shape(self) -> Shape:
        return self.parents[0].shape[-self.dimensions :]

    def split(self, shape: Shape) -> tuple[int, int]:
        return math.prod(shape[: -self.dimensions]), 1

    def onnx_attributes(self) -> dict[str, Any]:
        return {"axis": -self.dimensions}

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        axis = node.attributes.get("axis", -1)
        dimensions = -axis if axis < 0 else len(node.layers[0].shape) + 1 - axis
        if len(node.constants) == 1:
            node.constants.append(np.zeros_like(node.constants[0]))
        return cls(node.layers[0], dimensions, onnx_epsilon(node))


class GroupNormalization(SampleNormalization):
    """Mean and variance of each group of neighbouring channels; a weight a channel (Wu and He, 2018).

    Args:
        parent: layer of shape (channels, ...).
        groups: number of groups, which divides the channels.
        epsilon: added to the variance.
    """

    options = ("groups", "epsilon")
    operator = "GroupNormalization"
    opset = 21  # before, its weights were those of groups

    def __init__(
        self, parent: Layer, groups: int = 32, epsilon: float = 1e-5, name: str | None = None
    ) -> None:
        self.name = name
        self.groups = int(groups)
        if self.groups < 1 or parent.shape[0] % self.groups:
            raise self.refuse(f"groups {groups} must divide {parent.shape[0]} channels")
        super().__init__(parent, epsilon, name)

    def weights_shape(self) -> Shape:
        return self.parents[0].shape[:1]

    def split(self, shape: Shape) -> tuple[int, int]:
        return 1, self.groups

    def onnx_attributes(self) -> dict[str, Any]:
        return {"num_groups": self.groups}

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        channels = node.layers[0].shape[0]
        if any(constant.shape != (channels,) for constant in node.constants):
            raise node.refuse("only weights of channels are read; export it with opset 21 or later")
        return cls(node.layers[0], node.attributes["num_groups"], onnx_epsilon(node))


class InstanceNormalization(SampleNormalization):
    """Mean and variance of each channel of a sample; a weight a channel (Ulyanov et al., 2016).

    Args:
        parent: layer of shape (channels, ...), with at least one axis beside the channels.
        epsilon: added to the variance.
    """

    options = ("epsilon",)
    operator = "InstanceNormalization"

    def __init__(self, parent: Layer, epsilon: float = 1e-5, name: str | None = None) -> None:
        super().__init__(parent, epsilon, name)

    def output_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[0]) < 2:
            raise self.refuse(
                f"input of shape {shapes[0]} has one element a channel, nothing to normalise by"
            )
        return shapes[0]

    def weights_shape(self) -> Shape:
        return self.parents[0].shape[:1]

    def split(self, shape: Shape) -> tuple[int, int]:
        return 1, shape[0]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        return cls(node.layers[0], onnx_epsilon(node))
