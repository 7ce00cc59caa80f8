"""The execution plan of a graph for one batch size: which buffer lives when, and the steps in order.

The steps are the layers that `fusion` makes of the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from dhhpc.eddl.fusion import fuse
from dhhpc.eddl.graph import Array, Buffers, Layer, Randomness, Shape, SumOverRanks
from dhhpc.eddl.memory import Block, Slot, place
from dhhpc.eddl.passes import Callbacks, Passes, Step
from dhhpc.eddl.recomputation import Recomputation


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
    addend: Slot | None = None
    grad_inputs: list[Slot | None] = field(default_factory=list)
    accumulated: list[tuple[Slot, Slot]] = field(default_factory=list)
    trains: bool = False


class Plan:
    """The steps of a graph for a batch of one size, in training (forward and backward) or inference.

    Time runs 0 … L-1 forward through the L layers, L at the losses, L+1 … 2L backward through them reversed.

    Args:
        layers: of the model, in topological order.
        inputs, outputs: positions in `layers`.
        input_shapes: of one sample, an input each.
        batch: number of samples.
        training: plan the backward pass too.
        fused: positions of output activations whose backward the loss does itself, with a gradient with
            respect to the activation's input.
        kernels: the backend's kernels.
        memory: "full", or "low" to give up values and compute them again, see `recomputation`.

    Attributes:
        layers: one a step, fused ones for several of the model's; all positions are in these.
        members: of each step, the positions of its layers in the model.
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
        self.layers = fuse(layers, [layers[output] for output in outputs])
        position = {id(layer): index for index, layer in enumerate(layers)}
        self.members = [[position[id(member)] for member in layer.members] for layer in self.layers]
        steps = {member: step for step, members in enumerate(self.members) for member in members}
        self.inputs, self.outputs = [steps[index] for index in inputs], [steps[index] for index in outputs]
        self.fused = frozenset(steps[index] for index in fused)
        self.batch, self.training, self.kernels = batch, training, kernels
        self.blocks: list[Block] = []
        self.steps: list[LayerPlan] = []
        self.bound: list[Buffers] = []
        self.backward_bound: list[Buffers] = []
        self.arena: Array | None = None
        self.passes = Passes(kernels)
        self.callbacks = Callbacks()
        parents = [[steps[position[id(parent)]] for parent in layer.parents] for layer in self.layers]
        # The layers whose gradient lies in a block.
        self.owners: dict[Block, set[int]] = {}
        self.consumers: list[list[int]] = [[] for _ in self.layers]
        for index, sources in enumerate(parents):
            for source in sources:
                self.consumers[source].append(index)
        self.plan_forward(parents, self.consumers, dict(zip(self.inputs, input_shapes, strict=True)))
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
                    for number, source in enumerate(sources):
                        if layer.keeps_input(number):
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
        if not layer.in_place or index in self.fused:
            return False
        if any(other in self.inputs or other in self.outputs for other in sharing[source]):
            return False
        if self.training:
            return not layer.keeps_input(0) and not any(
                len(consumers[other]) != 1 or "output" in self.layers[other].backward_uses
                for other in sharing[source]
            )
        # All others that read the block have run, and this layer reads it as its first input only.
        readers = [reader for other in sharing[source] for reader in consumers[other]]
        return max(readers) == index and readers.count(index) == 1

    # -- backward ------------------------------------------------------------------------------------------

    def plan_backward(self) -> None:
        """Give every layer that trains a gradient; a value read by several layers sums theirs."""
        count = len(self.layers)
        for output in self.outputs:
            target = self.steps[output].parents[0] if output in self.fused else output
            step = self.steps[target]
            step.gradient = self.slot(step.value.shape, count, self.backward_time(target))
            self.owners[step.gradient.block] = {target}
            # The loss reads the values that it derives: predictions, or the fused activation's input.
            self.extend(step.value, count)
        for index in reversed(range(count)):
            step = self.steps[index]
            if not step.trains or step.gradient is None or index in self.fused:
                step.trains = step.trains and index not in self.fused and step.gradient is not None
                continue
            self.extend(step.gradient, self.backward_time(index))
            for number, source in enumerate(step.parents):
                slot = self.input_gradient(index, number)
                step.grad_inputs.append(slot)
                if slot is not None and self.steps[source].trains:
                    self.add_gradient(index, source, slot)

    def input_gradient(self, index: int, number: int) -> Slot | None:
        """A place for the gradient that step `index` writes of an input; the inputs before it have theirs."""
        step, time = self.steps[index], self.backward_time(index)
        source = step.parents[number]
        parent = self.steps[source]
        if not parent.trains:
            return self.slot(parent.value.shape, time, time) if step.layer.writes_every_gradient else None
        block = self.reusable(index, number) if parent.gradient is None else None
        if block is None:
            slot = self.slot(parent.value.shape, time, time)
            self.owners[slot.block] = {source}
            return slot
        self.owners[block].add(source)
        return Slot(block, parent.value.shape)

    def reusable(self, index: int, number: int) -> Block | None:
        """A block with a gradient in which the first one of an input may lie too, or in place of it."""
        step = self.steps[index]
        layer, mine = step.layer, step.gradient
        assert mine is not None
        if layer.view:
            return mine.block
        if layer.shares_gradient:
            changed = [total for _, total in step.accumulated]
            for source, slot in zip(step.parents[:number], step.grad_inputs, strict=True):
                if slot is not None and slot is self.steps[source].gradient and slot not in changed:
                    return slot.block
        alone = min(self.owners[mine.block]) == index
        if layer.in_place and alone and (number == 0 or layer.shares_gradient):
            return mine.block
        if layer.in_place and number == 1 and step.addend is not None:
            return step.addend.block
        return None

    def add_gradient(self, index: int, source: int, slot: Slot) -> None:
        """Let `slot`, which step `index` writes, be the gradient of step `source` or a part of it."""
        step, parent = self.steps[index], self.steps[source]
        time, last = self.backward_time(index), self.backward_time(source)
        if parent.gradient is None:
            parent.gradient = slot
        elif parent.layer.adds_gradients and parent.addend is None and source == index - 1:
            parent.addend = slot  # only of the layer that comes next, so that no block lives longer
            self.extend(slot, last)
        elif any(other < index and other != source for other in self.owners[parent.gradient.block]):
            # Another layer still reads what is there.
            step.accumulated.append((parent.gradient, slot))
            self.extend(parent.gradient, time)
            parent.gradient = slot
        else:
            step.accumulated.append((slot, parent.gradient))
            self.extend(parent.gradient, time)
        self.extend(parent.gradient, last)

    def backward_time(self, index: int) -> int:
        return 2 * len(self.layers) - index

    def backward_reads(self, index: int) -> list[int]:
        """The times at which backward passes read the output of layer `index`."""
        readers = [
            reader
            for reader in self.consumers[index]
            for number, source in enumerate(self.steps[reader].parents)
            if source == index and self.layers[reader].keeps_input(number)
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
        sum_over_ranks: SumOverRanks,
    ) -> None:
        """Make the views of `arena` (bytes) and of the model's arrays, a list a layer, that the steps use."""
        if self.arena is arena:
            return
        self.arena, self.bound = arena, []
        self.passes.clear()
        for index, step in enumerate(self.steps):
            inputs = [self.bound[source].output for source in step.parents]
            buffers = Buffers(inputs, step.value.view(arena))
            buffers.parameters, buffers.gradients, buffers.statistics = (
                [array for member in self.members[index] for array in arrays[member]]
                for arrays in (parameters, gradients, statistics)
            )
            buffers.randomness, buffers.sum_over_ranks = randomness, sum_over_ranks
            buffers.position = self.members[index][0]
            buffers.saved = [slot.view(arena) for slot in step.saved]
            if step.workspace:
                buffers.workspace = step.workspace.view(arena)
            if step.gradient:
                buffers.grad_output = step.gradient.view(arena)
            if step.addend:
                buffers.grad_addend = step.addend.view(arena)
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
        if watch is None:
            self.passes.run(("forward", self.alone), self.forward_steps)
        else:
            for index, step in enumerate(self.forward_steps()):
                step.run()
                if watch(index):
                    break
        return [self.bound[output].output for output in self.outputs]

    def forward_steps(self) -> Iterator[Step]:
        for step, buffers in zip(self.steps, self.bound, strict=True):
            layer = step.layer
            yield Step(partial(layer.forward, self.kernels, buffers, self.training), layer.repeats(buffers))

    @property
    def alone(self) -> bool:
        """Whether layers take no statistics of other ranks' batches."""
        return self.bound[0].sum_over_ranks.add is None

    def loss_gradient(self, number: int) -> Array:
        """Where the loss of output `number` writes its gradient."""
        output = self.outputs[number]
        target = self.steps[output].parents[0] if output in self.fused else output
        return self.bound[target].grad_output

    def logits(self, number: int) -> Array:
        """The input of the fused activation of output `number`."""
        return self.bound[self.steps[self.outputs[number]].parents[0]].output

    def backward(
        self,
        update: Callable[[Array, Array], None] | None = None,
        completed: Callable[[Sequence[Array]], None] | None = None,
    ) -> None:
        """Run every layer that trains backward, from the gradients that the losses wrote.

        update: called with parameters and their gradient by layers that need not keep it, see
            `Layer.backward_updating`.
        completed: called with the gradients of each layer's parameters once they are there.
        """
        given = update is not None, completed is not None
        with self.callbacks.calling(update, completed):
            self.passes.run(("backward", self.alone, *given), lambda: self.backward_steps(*given))

    def backward_steps(self, updating: bool, telling: bool) -> Iterator[Step]:
        """updating, telling: whether there is an `update` or a `completed`."""
        for index in reversed(range(len(self.steps))):
            step, buffers = self.steps[index], self.backward_bound[index]
            if self.recomputation is not None:
                yield from self.recomputation.forward_steps(index, self.backward_bound)
            if not step.trains:
                continue
            layer, early = step.layer, updating and step.layer.updates_early
            backward = layer.backward_updating if early else layer.backward
            told = (self.callbacks.update,) if early else ()
            run = partial(backward, self.kernels, buffers, *told)
            workspace = self.backward_workspaces[index]
            if workspace is not None:
                run = partial(run_in, workspace, buffers, run)
            yield Step(run, not early and layer.repeats(buffers))
            if telling and buffers.gradients:
                yield Step(partial(self.callbacks.completed, buffers.gradients), False)
            for addend, total in self.sums[index]:
                yield Step(partial(self.kernels.accumulate, addend, total), True)


def run_in(workspace: Array, buffers: Buffers, run: Callable[[], object]) -> None:
    """Run with another workspace."""
    usual, buffers.workspace = buffers.workspace, workspace
    try:
        run()
    finally:
        buffers.workspace = usual
