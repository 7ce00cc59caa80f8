"""Layers whose memory passes merge: a plan runs a few neighbouring layers of the model as one.

A fused layer is a layer like any other to the plan, which knows of no pattern. It exists in plans only: the
model's layers, their parameters and what is saved or exported are the same with and without it. The first
layer of a fused group gives it its name, also in messages about NaN and infinity.

At inference batch normalisation is not folded into the weights of the convolution before it: it takes place
in the convolution's output, in one pass with what follows, so that nobody who changes weights has to say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Buffers, Layer, Parameter, Shape
from dhhpc.eddl.layers import Add, BatchNormalization, ReLU
from dhhpc.eddl.layers.activations import ActivationLayer

# Whether nothing but the next layer reads a layer's value.
Private = Callable[[Layer], bool]


class FusedLayer(Layer):
    """Layers of the model that run as one; only the last one's value exists.

    Args:
        members: in topological order.
        parents: the layers that they read, beside each other.
    """

    def __init__(self, members: Sequence[Layer], parents: Sequence[Layer]) -> None:
        self.group = tuple(members)
        super().__init__(*parents, name=members[0].name)

    @property
    def members(self) -> tuple[Layer, ...]:
        return self.group

    def parameters(self) -> list[Parameter]:
        return [parameter for member in self.members for parameter in member.parameters()]

    def statistics(self) -> list[Parameter]:
        return [statistic for member in self.members for statistic in member.statistics()]


class Normalized(FusedLayer):
    """f(batch normalisation(x)), where f is a ReLU or a leaky one."""

    backward_uses = frozenset({"inputs"})
    in_place = True
    writes_every_gradient = True
    adds_gradients = True

    def __init__(self, normalization: BatchNormalization, activation: Layer, slope: float) -> None:
        self.normalization, self.slope = normalization, slope
        super().__init__([normalization, activation], normalization.parents)

    @classmethod
    def match(cls, last: Layer, private: Private) -> FusedLayer | None:
        slope = slope_of(last)
        if slope is None or not isinstance(source := last.parents[0], BatchNormalization):
            return None
        return cls(source, last, slope) if private(source) else None

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.normalization.output_shape(*shapes)

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return self.normalization.saved(batch, shapes)

    def repeats(self, buffers: Buffers) -> bool:
        return self.normalization.repeats(buffers)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        self.normalization.forward_into(kernels, buffers, training, slope=self.slope)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        self.normalization.backward_into(kernels, buffers, slope=self.slope)


class NormalizedSum(FusedLayer):
    """f(skip + batch normalisation(x)), where f is a ReLU or a leaky one: the end of a residual block.

    Its inputs are skip and x, in this order: the output may be written over skip.
    """

    backward_uses = frozenset({"last input", "output"})
    in_place = True
    writes_every_gradient = True
    adds_gradients = True

    def __init__(
        self, normalization: BatchNormalization, addition: Add, activation: Layer, slope: float, skip: Layer
    ) -> None:
        self.normalization, self.addition, self.slope = normalization, addition, slope
        super().__init__([normalization, addition, activation], [skip, *normalization.parents])

    @classmethod
    def match(cls, last: Layer, private: Private) -> FusedLayer | None:
        slope, addition = slope_of(last), sum_of_two(last, private)
        if slope is None or addition is None:
            return None
        for source, skip in (addition.parents, addition.parents[::-1]):
            if isinstance(source, BatchNormalization) and private(source):
                return cls(source, addition, last, slope, skip)
        return None

    def output_shape(self, *shapes: Shape) -> Shape:
        skip, x = shapes
        return self.addition.output_shape(self.normalization.output_shape(x), skip)

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        return self.normalization.saved(batch, shapes[1:])

    def repeats(self, buffers: Buffers) -> bool:
        return self.normalization.repeats(buffers)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        self.normalization.forward_into(kernels, buffers, training, buffers.inputs[0], self.slope)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        grad_skip = buffers.grad_inputs[0]
        self.normalization.backward_into(kernels, buffers, buffers.output, grad_skip, self.slope)


class RectifiedSum(FusedLayer):
    """ReLU(x + y)."""

    backward_uses = frozenset({"output"})
    in_place = True
    shares_gradient = True
    adds_gradients = True

    def __init__(self, addition: Add, activation: ReLU) -> None:
        self.addition = addition
        super().__init__([addition, activation], addition.parents)

    @classmethod
    def match(cls, last: Layer, private: Private) -> FusedLayer | None:
        addition = sum_of_two(last, private)
        return cls(addition, last) if isinstance(last, ReLU) and addition is not None else None

    def output_shape(self, *shapes: Shape) -> Shape:
        return self.addition.output_shape(*shapes)

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        first, second = buffers.inputs
        kernels.relu_forward(first, buffers.output, second)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        first, *others = (gradient for gradient in buffers.grad_inputs if gradient is not None)
        kernels.relu_backward(buffers.output, buffers.grad_output, first, buffers.grad_addend)
        for other in others:
            if not np.may_share_memory(first, other):
                other[...] = first


# The first that matches is taken.
PATTERNS: tuple[Callable[[Layer, Private], FusedLayer | None], ...] = (
    NormalizedSum.match,
    Normalized.match,
    RectifiedSum.match,
)


def fuse(layers: Sequence[Layer], outputs: Sequence[Layer]) -> list[Layer]:
    """The layers of a plan for these layers of a model: some of them fused, in place of their last member.

    Args:
        layers: in topological order.
        outputs: layers whose values are wanted.
    """
    readers = Counter(id(parent) for layer in layers for parent in layer.parents)
    wanted = {id(layer) for layer in outputs}
    fused: list[Layer] = []
    taken: set[int] = set()

    def private(layer: Layer) -> bool:
        return readers[id(layer)] == 1 and id(layer) not in wanted

    for layer in reversed(layers):
        if id(layer) in taken:
            continue
        found = next((group for match in PATTERNS if (group := match(layer, private))), layer)
        taken.update(id(member) for member in found.members)
        fused.append(found)
    return fused[::-1]


def slope_of(layer: Layer) -> float | None:
    """What a layer multiplies negative numbers by, if that is all it does."""
    return layer.slope if isinstance(layer, ActivationLayer) else None


def sum_of_two(layer: Layer, private: Private) -> Add | None:
    """The first input of a layer, if it is a sum of two that nothing else reads."""
    source = layer.parents[0] if layer.parents else None
    return source if isinstance(source, Add) and len(source.parents) == 2 and private(source) else None
