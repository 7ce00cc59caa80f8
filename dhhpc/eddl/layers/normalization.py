"""Batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Parameter, Shape


class BatchNormalization(Layer):
    """Per channel: gamma (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy, 2015).

    Training uses the batch's mean and variance and moves the running ones by `momentum` towards them (the
    running variance is the unbiased one); inference uses the running ones.

    Args:
        parent: layer of shape (channels, height, width) or (features,).
        momentum: share of the new batch in the running statistics.
        epsilon: added to the variance.
    """

    options = ("momentum", "epsilon")
    backward_uses = frozenset({"inputs"})
    writes_every_gradient = True
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

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        x, out = buffers.inputs[0], buffers.output
        if training:
            kernels.batch_normalization_training(
                x, *buffers.parameters, *buffers.statistics, out, *buffers.saved, self.momentum, self.epsilon
            )
        else:
            kernels.batch_normalization_inference(
                x, *buffers.parameters, *buffers.statistics, out, self.epsilon
            )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.batch_normalization_backward(
            buffers.inputs[0],
            buffers.grad_output,
            buffers.parameters[0],
            *buffers.saved,
            buffers.grad_inputs[0],
            *buffers.gradients,
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
