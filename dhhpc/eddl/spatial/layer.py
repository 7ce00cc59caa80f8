"""A layer that needs rows of other ranks, as each rank runs it on its own rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Buffers, Layer, Parameter, Shape
from dhhpc.eddl.layers.convolution import Conv
from dhhpc.eddl.spatial.exchange import RowExchange
from dhhpc.eddl.spatial.rows import Window

# Arrays of the workspace begin at a cache line, in floats.
ALIGNMENT = 16


class SlabLayer(Layer):
    """Runs a layer of a network on the rows of one rank and those it needs of others.

    The rows lie together in the workspace only while the layer runs; of other ranks' rows a copy is kept for
    the backward pass, so that nothing is sent twice and little is kept.

    Args:
        layer: of the whole network; stays as it is.
        parent: makes this rank's rows of its input.
        window: what this rank's rows of the output are computed from.
        exchange: brings it.
        first, last: this rank's rows of the output.
    """

    def __init__(
        self, layer: Layer, parent: Layer, window: Window, exchange: RowExchange, first: int, last: int
    ) -> None:
        self.inner = copy.copy(layer)
        self.inner.parents = (parent,)
        if isinstance(self.inner, Conv):
            self.inner.padding = (0, *self.inner.padding[1:])  # the window holds what it would pad
        self.window, self.exchange = window, exchange
        self.rows = last - first
        self.wanted = slice(first - window.first, last - window.first)
        super().__init__(parent, name=layer.name)
        self.inner.shape = self.computed(parent.shape)

    @property
    def class_name(self) -> str:
        return self.inner.class_name

    @property
    def moves_rows(self) -> bool:
        """Whether it is more than the inner layer on this rank's own rows."""
        shape = self.parents[0].shape
        moved = self.exchange.outgoing or self.exchange.incoming or self.window.above or self.window.below
        return bool(moved) or self.extended(shape) != shape or self.inner.shape != self.shape

    # -- what it takes from the layer ----------------------------------------------------------------------

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, _, *rest = self.computed(shapes[0])
        return (channels, self.rows, *rest)

    def extended(self, shape: Shape) -> Shape:
        """What the layer gets, for samples of `shape`."""
        return (shape[0], self.window.extent, *shape[2:])

    def computed(self, shape: Shape) -> Shape:
        """What the layer makes of it, before rows are dropped."""
        return self.inner.output_shape(self.extended(shape))

    def parameters(self) -> list[Parameter]:
        return self.inner.parameters()

    def keeps_input(self, number: int) -> bool:
        return self.inner.keeps_input(number)

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        received = [(shape, np.float32) for shape in self.exchange.received_shapes(batch, shapes[0])]
        return received + self.inner.saved(batch, [self.extended(shapes[0])])

    def workspace(self, kernels: ModuleType, batch: int, shapes: Sequence[Shape]) -> int:
        scratch = self.inner.workspace(kernels, batch, [self.extended(shapes[0])])
        return self.places(batch, shapes[0])[1] + scratch

    def places(self, batch: int, shape: Shape) -> tuple[int, int]:
        """Where the layer's output and its scratch begin in the workspace; the output is there only if some
        of its rows are to be dropped."""
        output, computed = aligned(batch * math.prod(self.extended(shape))), self.computed(shape)
        return output, output + (aligned(batch * math.prod(computed)) if computed[1] > self.rows else 0)

    # -- running -------------------------------------------------------------------------------------------

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        inner = self.inner_buffers(buffers, buffers.output)
        self.exchange.fetch(buffers.inputs[0], self.received(buffers))
        self.assemble(buffers, inner.inputs[0])
        self.inner.forward(kernels, inner, training)
        if inner.output is not buffers.output:
            np.copyto(buffers.output, inner.output[:, :, self.wanted])

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        inner = self.inner_buffers(buffers, buffers.grad_output)
        inner.grad_output = inner.output
        if inner.grad_output is not buffers.grad_output:
            inner.grad_output.fill(0)
            inner.grad_output[:, :, self.wanted] = buffers.grad_output
        (extended,), (grad_input,) = inner.inputs, buffers.grad_inputs
        if self.inner.keeps_input(0):
            self.assemble(buffers, extended)
        # In one place: convolutions have read their input, for the weights, before they write its gradient.
        inner.grad_inputs = [None if grad_input is None else extended]
        self.inner.backward(kernels, inner)
        if grad_input is not None:
            self.exchange.give_back(self.real(extended), grad_input)

    def inner_buffers(self, buffers: Buffers, output: Array) -> Buffers:
        """The layer's own, with its input in the workspace, and its output too if `output` has fewer rows."""
        batch, *shape = buffers.inputs[0].shape
        extended, computed = self.extended(tuple(shape)), self.computed(tuple(shape))
        start, scratch = self.places(batch, tuple(shape))
        if scratch > start:
            output = floats_as((batch, *computed), buffers.workspace[start:])
        return Buffers(
            inputs=[floats_as((batch, *extended), buffers.workspace)],
            output=output,
            parameters=buffers.parameters,
            gradients=buffers.gradients,
            saved=buffers.saved[len(self.exchange.incoming) :],
            workspace=buffers.workspace[scratch:],
        )

    def received(self, buffers: Buffers) -> list[Array]:
        """The rows of other ranks."""
        return buffers.saved[: len(self.exchange.incoming)]

    def assemble(self, buffers: Buffers, extended: Array) -> None:
        """Write what the layer computes from."""
        extended[:, :, : self.window.above] = 0
        extended[:, :, self.window.extent - self.window.below :] = 0
        self.exchange.assemble(buffers.inputs[0], self.received(buffers), self.real(extended))

    def real(self, extended: Array) -> Array:
        """The rows of the image among those."""
        return extended[:, :, self.window.above : self.window.extent - self.window.below]


def aligned(floats: int) -> int:
    return -(-floats // ALIGNMENT) * ALIGNMENT


def floats_as(shape: Shape, floats: Array) -> Array:
    """The first of some numbers, in a shape."""
    return floats[: math.prod(shape)].reshape(shape)
