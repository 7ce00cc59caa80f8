"""Sums, means and maxima over axes of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, OnnxNode, Shape
from dhhpc.eddl.layers.reshaping import constant_node


class ReductionLayer(Layer):
    """One number in place of the elements along some axes.

    Args:
        parent: layer of any shape.
        axes: of a sample, the channels' is 0; one, or several neighbours. Negative ones count from the end.
        keep_dimensions: whether they stay, with extent 1.
    """

    options = ("axes", "keep_dimensions")
    opset = 18

    def __init__(
        self, parent: Layer, axes: int | Sequence[int], keep_dimensions: bool = True, name: str | None = None
    ) -> None:
        self.name = name
        self.keep_dimensions = bool(keep_dimensions)
        count = len(parent.shape)
        given = (axes,) if isinstance(axes, int | np.integer) else tuple(axes)
        self.axes = tuple(sorted(int(axis) % count for axis in given if -count <= axis < count))
        start = self.axes[0] if self.axes else 0
        if not given or self.axes != tuple(range(start, start + len(given))):
            raise self.refuse(f"axes {list(given)} are no neighbours of a sample of shape {parent.shape}")
        if len(given) == count and not keep_dimensions:
            raise self.refuse("reduces every axis; keep the dimensions")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        kept = [(1 if axis in self.axes else extent) for axis, extent in enumerate(shapes[0])]
        if not self.keep_dimensions:
            kept = [extent for axis, extent in enumerate(shapes[0]) if axis not in self.axes]
        return tuple(kept)

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def reduced(self) -> tuple[int, int]:
        """The first reduced axis of a batch, and how many."""
        return self.axes[0] + 1, len(self.axes)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        axes = f"{output}.axes"
        return [
            constant_node(axes, np.array([axis + 1 for axis in self.axes], np.int64)),
            make_node(
                self.operator, [*inputs, axes], [output], name=self.name, keepdims=int(self.keep_dimensions)
            ),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        # Before opset 18 the axes are an attribute.
        given = node.constants[0].tolist() if node.constants else node.attributes.get("axes", [])
        axes = [int(axis) % (len(node.layers[0].shape) + 1) - 1 for axis in given]
        if not axes or min(axes) < 0:
            raise node.refuse(f"axes {list(given)} would join samples of a batch")
        return cls(node.layers[0], axes, bool(node.attributes.get("keepdims", 1)))


class SummingLayer(ReductionLayer):
    """`ReductionLayer` by addition."""

    mean: ClassVar[bool]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.reduce_sum_forward(buffers.inputs[0], buffers.output, *self.reduced(), self.mean)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.reduce_sum_backward(buffers.grad_output, buffers.grad_inputs[0], *self.reduced(), self.mean)


class ReduceSum(SummingLayer):
    """The sum along some axes, see `ReductionLayer`."""

    operator = "ReduceSum"
    mean = False


class ReduceMean(SummingLayer):
    """The mean along some axes, see `ReductionLayer`."""

    operator = "ReduceMean"
    mean = True


class ReduceMax(ReductionLayer):
    """The largest value along some axes, see `ReductionLayer`; its first place gets the gradient."""

    operator = "ReduceMax"

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return [((batch, *self.output_shape(*shapes)), np.int32)]

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.reduce_max_forward(buffers.inputs[0], buffers.output, buffers.saved[0], *self.reduced())

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.reduce_max_backward(
            buffers.grad_output, buffers.saved[0], buffers.grad_inputs[0], *self.reduced()
        )
