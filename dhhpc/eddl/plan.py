"""The execution plan of a graph for one batch size: which buffer lives when, and the steps in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Buffers, Layer, Randomness, Shape
from dhhpc.eddl.memory import Block, place
from dhhpc.eddl.recomputation import Recomputation


@dataclass
class Slot:
    """A typed view of a block."""

    block: Block
    shape: Shape
    dtype: Any = np.float32

    def view(self, arena: Array) -> Array:
        count = int(np.prod(self.shape))
        size = count * np.dtype(self.dtype).itemsize
        return arena[self.block.offset : self.block.offset + size].view(self.dtype).reshape(self.shape)


@dataclass
class LayerPlan:
    """Where one layer's arrays lie; gradients are None where nothing needs them."""

    layer: Layer
    parents: list[int]
    shape: Shape
    value: Slot
    saved: list[Slot] = field(default_factory=list)
    workspace: Slot | None = None
    backward_workspace: Slot | None = None
    gradient: Slot | None = None
    grad_inputs: list[Slot | None] = field(default_factory=list)
    accumulated: list[tuple[Slot, Slot]] = field(default_factory=list)
    trains: bool = False


class Plan:
    """The steps of a graph for a batch of one size, in training (forward and backward) or inference.

    Time runs 0 … L-1 forward through the L layers, L at the losses, L+1 … 2L backward through them reversed.

    Args:
        layers: in topological order.
        inputs, outputs: positions in `layers`.
        input_shapes: of one sample, an input each.
        batch: number of samples.
        training: plan the backward pass too.
        fused: positions of output activations whose backward the loss does itself, with a gradient with
            respect to the activation's input.
        kernels: the backend's kernels.
        memory: "full", or "low" to give up values and compute them again, see `recomputation`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        inputs: Sequence[int],
        outputs: Sequence[int],
        input_shapes: Sequence[Shape],
        batch: int,
        training: bool,
        fused: frozenset[int],
        kernels: ModuleType,
        memory: str = "full",
    ) -> None:
        self.layers, self.inputs, self.outputs, self.batch = layers, list(inputs), list(outputs), batch
        self.training, self.fused, self.kernels = training, fused, kernels
        self.blocks: list[Block] = []
        self.steps: list[LayerPlan] = []
        self.bound: list[Buffers] = []
        self.backward_bound: list[Buffers] = []
        self.arena: Array | None = None
        position = {id(layer): index for index, layer in enumerate(layers)}
        parents = [[position[id(parent)] for parent in layer.parents] for layer in layers]
        self.consumers: list[list[int]] = [[] for _ in layers]
        for index, sources in enumerate(parents):
            for source in sources:
                self.consumers[source].append(index)
        self.plan_forward(parents, self.consumers, dict(zip(inputs, input_shapes, strict=True)))
        if training:
            self.plan_backward()
        self.recomputation = Recomputation(self) if training and memory == "low" else None
        self.size = place(self.blocks)

    # -- forward -------------------------------------------------------------------------------------------

    def plan_forward(
        self, parents: list[list[int]], consumers: list[list[int]], input_shapes: dict[int, Shape]
    ) -> None:
        """Give every layer its output, what it saves for backward, and its scratch."""
        count = len(self.layers)
        # The positions whose values lie in one block, so that nobody overwrites what another still reads.
        sharing: dict[int, list[int]] = {}
        for index, layer in enumerate(self.layers):
            sources = parents[index]
            shapes = [self.steps[source].shape for source in sources]
            shape = input_shapes[index] if index in input_shapes else layer.output_shape(*shapes)
            value = None
            if sources and (layer.view or self.may_overwrite(index, sources[0], consumers, sharing)):
                block = self.steps[sources[0]].value.block
                value = Slot(block, (self.batch, *shape))
                sharing[index] = sharing[sources[0]]
            else:
                value = self.slot((self.batch, *shape), index, index)
                sharing[index] = []
            sharing[index].append(index)
            for source in sources:
                self.extend(self.steps[source].value, index)
            self.extend(value, count if index in self.outputs else index)
            step = LayerPlan(layer, sources, shape, value)
            if self.training:
                last = self.backward_time(index)
                step.saved = [
                    self.slot(saved, index, last, dtype) for saved, dtype in layer.saved(self.batch, shapes)
                ]
                step.trains = bool(layer.parameters()) or any(self.steps[source].trains for source in sources)
                if step.trains:
                    if "inputs" in layer.backward_uses:
                        for source in sources:
                            self.extend(self.steps[source].value, last)
                    if "output" in layer.backward_uses:
                        self.extend(value, last)
            else:
                step.saved = [
                    self.slot(saved, index, index, dtype) for saved, dtype in layer.saved(self.batch, shapes)
                ]
            scratch = layer.workspace(self.kernels, self.batch, shapes)
            if scratch:
                step.workspace = self.slot((scratch,), index, index)
                if step.trains:
                    time = self.backward_time(index)
                    step.backward_workspace = self.slot((scratch,), time, time)
            self.steps.append(step)

    def may_overwrite(
        self, index: int, source: int, consumers: list[list[int]], sharing: dict[int, list[int]]
    ) -> bool:
        """Whether layer `index` may write its output over its first input."""
        layer = self.layers[index]
        if not layer.in_place or (self.training and "inputs" in layer.backward_uses) or index in self.fused:
            return False
        return not any(
            other in self.inputs
            or other in self.outputs
            or len(consumers[other]) != 1
            or (self.training and "output" in self.layers[other].backward_uses)
            for other in sharing[source]
        )

    # -- backward ------------------------------------------------------------------------------------------

    def plan_backward(self) -> None:
        """Give every layer that trains a gradient; a value read by several layers sums theirs."""
        count = len(self.layers)
        for output in self.outputs:
            target = self.steps[output].parents[0] if output in self.fused else output
            step = self.steps[target]
            step.gradient = self.slot(step.value.shape, count, self.backward_time(target))
            # The loss reads the values that it derives: predictions, or the fused activation's input.
            self.extend(step.value, count)
        for index in reversed(range(count)):
            step = self.steps[index]
            if not step.trains or step.gradient is None or index in self.fused:
                step.trains = step.trains and index not in self.fused and step.gradient is not None
                continue
            time = self.backward_time(index)
            self.extend(step.gradient, time)
            for number, source in enumerate(step.parents):
                parent = self.steps[source]
                if not parent.trains:
                    unwanted = step.layer.writes_every_gradient
                    step.grad_inputs.append(self.slot(parent.value.shape, time, time) if unwanted else None)
                    continue
                first = parent.gradient is None
                if first and number == 0 and (step.layer.in_place or step.layer.view):
                    slot = Slot(step.gradient.block, parent.value.shape)
                else:
                    slot = self.slot(parent.value.shape, time, time)
                step.grad_inputs.append(slot)
                if parent.gradient is None:
                    parent.gradient = slot
                else:
                    step.accumulated.append((slot, parent.gradient))
                    self.extend(parent.gradient, time)
                self.extend(parent.gradient, self.backward_time(source))

    def backward_time(self, index: int) -> int:
        return 2 * len(self.layers) - index

    def backward_reads(self, index: int) -> list[int]:
        """The times at which backward passes read the output of layer `index`."""
        readers = [
            reader for reader in self.consumers[index] if "inputs" in self.layers[reader].backward_uses
        ]
        if "output" in self.layers[index].backward_uses:
            readers.append(index)
        return [self.backward_time(reader) for reader in readers if self.steps[reader].trains]

    def read_by_loss(self, index: int) -> bool:
        """Whether a loss or the caller reads the output of layer `index`."""
        return index in self.outputs or any(reader in self.fused for reader in self.consumers[index])

    def slot(self, shape: Shape, first: float, last: float, dtype: Any = np.float32) -> Slot:
        block = Block(int(np.prod(shape)) * np.dtype(dtype).itemsize, first, last)
        self.blocks.append(block)
        return Slot(block, shape, dtype)

    @staticmethod
    def extend(slot: Slot, last: float) -> None:
        slot.block.last = max(slot.block.last, last)

    # -- running -------------------------------------------------------------------------------------------

    def bind(
        self,
        arena: Array,
        parameters: list[list[Array]],
        gradients: list[list[Array]],
        statistics: list[list[Array]],
        randomness: Randomness,
    ) -> None:
        """Make the views of `arena` (bytes) and of the model's arrays, a list a layer, that the steps use."""
        if self.arena is arena:
            return
        self.arena, self.bound = arena, []
        for index, step in enumerate(self.steps):
            inputs = [self.bound[source].output for source in step.parents]
            buffers = Buffers(inputs, step.value.view(arena), statistics=statistics[index])
            buffers.parameters, buffers.gradients = parameters[index], gradients[index]
            buffers.randomness, buffers.position = randomness, index
            buffers.saved = [slot.view(arena) for slot in step.saved]
            if step.workspace:
                buffers.workspace = step.workspace.view(arena)
            if step.gradient:
                buffers.grad_output = step.gradient.view(arena)
            for slot in step.grad_inputs:
                shared = slot is not None and step.gradient is not None and slot.block is step.gradient.block
                same = shared and slot is not None and slot.shape == buffers.grad_output.shape
                buffers.grad_inputs.append(
                    buffers.grad_output if same else None if slot is None else slot.view(arena)
                )
            self.bound.append(buffers)
        self.backward_bound = self.recomputation.bind(arena, self.bound) if self.recomputation else self.bound
        self.sums = [
            [(addend.view(arena), total.view(arena)) for addend, total in step.accumulated]
            for step in self.steps
        ]
        self.backward_workspaces = [
            step.backward_workspace.view(arena) if step.backward_workspace else None for step in self.steps
        ]

    def forward(self, inputs: Sequence[Array], watch: Callable[[int], bool] | None = None) -> list[Array]:
        """Run every layer on a batch; returns the outputs, which are views that the next step overwrites.

        `watch` is called with a layer's position right after it ran (later layers reuse its buffers), and
        ends the run by True.
        """
        for index, array in zip(self.inputs, inputs, strict=True):
            np.copyto(self.bound[index].output, array, casting="same_kind")
        for index, (step, buffers) in enumerate(zip(self.steps, self.bound, strict=True)):
            step.layer.forward(self.kernels, buffers, self.training)
            if watch is not None and watch(index):
                break
        return [self.bound[output].output for output in self.outputs]

    def loss_gradient(self, number: int) -> Array:
        """Where the loss of output `number` writes its gradient."""
        output = self.outputs[number]
        target = self.steps[output].parents[0] if output in self.fused else output
        return self.bound[target].grad_output

    def logits(self, number: int) -> Array:
        """The input of the fused activation of output `number`."""
        return self.bound[self.steps[self.outputs[number]].parents[0]].output

    def backward(self) -> None:
        """Run every layer that trains backward, from the gradients that the losses wrote."""
        for index in reversed(range(len(self.steps))):
            step, buffers = self.steps[index], self.backward_bound[index]
            if self.recomputation is not None:
                self.recomputation.run(index, self.backward_bound)
            if not step.trains:
                continue
            workspace = self.backward_workspaces[index]
            if workspace is not None:
                forward_workspace, buffers.workspace = buffers.workspace, workspace
            step.layer.backward(self.kernels, buffers)
            if workspace is not None:
                buffers.workspace = forward_workspace
            for addend, total in self.sums[index]:
                self.kernels.accumulate(addend, total)
