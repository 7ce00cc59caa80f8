"""`memory: low`: most values of the forward pass are given up and computed again for the backward pass.

The layers are cut into segments. The forward pass keeps what later segments read, and the last segment whole;
before the backward pass of any other segment its layers run forward again from what was kept (Chen, Xu, Zhang
and Guestrin, Training Deep Nets with Sublinear Memory Cost, 2016). It costs at most one forward pass a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.eddl.graph import Array, Buffers
from dhhpc.eddl.memory import Block, Slot, aligned
from dhhpc.eddl.passes import Step

if TYPE_CHECKING:
    from dhhpc.eddl.plan import Plan

# Budgets that are tried: the values of all layers, divided by 2 to MOST_SEGMENTS.
MOST_SEGMENTS = 24


class Segments:
    """One way to cut a plan's layers: which run again, and how long each block then lives.

    Args:
        plan: with the lifetimes of a plan that keeps everything.
        cuts: the first layer of every segment but the first one.
    """

    def __init__(self, plan: Plan, cuts: list[int]) -> None:
        self.plan = plan
        count = len(plan.steps)
        self.bounds = list(zip([0, *cuts], [*cuts, count], strict=True))
        self.kept = kept_blocks(plan, self.bounds)
        # When a layer runs again: after the backward pass of the next segment, before that of its own.
        self.times: dict[int, float] = {}
        for first, end in self.bounds[:-1]:
            self.choose(first, end)
        self.last: dict[Block, float] = {}
        for index, step in enumerate(plan.steps):
            block = step.value.block
            self.last[block] = max(self.last.get(block, 0), self.last_use(index))
            for slot in step.saved:
                self.last[slot.block] = index if index in self.times else slot.block.last

    def choose(self, first: int, end: int) -> None:
        """Find which layers of a segment must run again, later ones first: theirs are the inputs wanted."""
        plan, start = self.plan, 2 * len(self.plan.steps) - end
        for index in reversed(range(first, end)):
            if plan.steps[index].value.block in self.kept:
                continue
            read = plan.backward_reads(index)
            if read or any(consumer in self.times for consumer in plan.consumers[index]):
                self.times[index] = start + (index - first + 1) / (end - first + 1)

    def last_use(self, index: int) -> float:
        """When the value of the forward pass is read last."""
        plan = self.plan
        last: list[float] = [index, *plan.consumers[index]]
        if plan.read_by_loss(index):
            last.append(len(plan.steps))
        if index not in self.times:
            last += [self.times[consumer] for consumer in plan.consumers[index] if consumer in self.times]
            last += plan.backward_reads(index)
        return max(last)

    def last_use_again(self, index: int) -> float:
        """When the value that was computed again is read last."""
        again = [self.times[consumer] for consumer in self.plan.consumers[index] if consumer in self.times]
        return max([self.times[index], *again, *self.plan.backward_reads(index)])

    def peak(self) -> int:
        """The largest sum of the blocks that live at one time, in bytes: what the arena needs at least."""
        old = [(block.size, block.first, self.last.get(block, block.last)) for block in self.plan.blocks]
        new = []
        for index, time in self.times.items():
            step = self.plan.steps[index]
            if not step.parents or step.value.block is not self.plan.steps[step.parents[0]].value.block:
                new.append((step.value.block.size, time, self.last_use_again(index)))
            new += [(slot.block.size, time, self.plan.backward_time(index)) for slot in step.saved]
        return largest_sum(old + new)


class Recomputation:
    """The layers of a plan that run forward twice, with the second run's places.

    Args:
        plan: planned to keep everything, not yet placed; its blocks' lifetimes are changed.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        found = [Segments(plan, cuts) for cuts in choices(plan)]
        segments = min(found, key=lambda segments: segments.peak())
        self.values: dict[int, Slot] = {}
        self.saved: dict[int, list[Slot]] = {}
        self.workspaces: dict[int, Slot] = {}
        self.runs: dict[int, list[int]] = {}
        for block, last in segments.last.items():
            block.last = last
        for first, end in segments.bounds[:-1]:
            self.runs[end - 1] = [index for index in range(first, end) if index in segments.times]
        for index in sorted(segments.times):
            self.plan_again(index, segments)

    def plan_again(self, index: int, segments: Segments) -> None:
        """Places for the second run of a layer; it overwrites its input where the first run does."""
        plan, time = self.plan, segments.times[index]
        step, last = plan.steps[index], segments.last_use_again(index)
        source = step.parents[0]
        if step.value.block is plan.steps[source].value.block:
            self.values[index] = dataclasses.replace(step.value, block=self.values[source].block)
            plan.extend(self.values[index], last)
        else:
            self.values[index] = plan.slot(step.value.shape, time, last)
        end = plan.backward_time(index)
        self.saved[index] = [plan.slot(slot.shape, time, end, slot.dtype) for slot in step.saved]
        if step.workspace is not None:
            self.workspaces[index] = plan.slot(step.workspace.shape, time, time)

    def bind(self, arena: Array, bound: list[Buffers]) -> list[Buffers]:
        """What the backward pass of each layer reads, given the forward pass's buffers."""
        outputs = {index: slot.view(arena) for index, slot in self.values.items()}
        found = []
        for index, buffers in enumerate(bound):
            again = dataclasses.replace(buffers)
            parents = self.plan.steps[index].parents
            # A value that runs again is read by its own segment only.
            again.inputs = [
                outputs.get(source, first) for source, first in zip(parents, buffers.inputs, strict=True)
            ]
            if index in outputs:
                again.output = outputs[index]
                again.saved = [slot.view(arena) for slot in self.saved[index]]
                # A second run must not move running statistics again.
                again.statistics = [np.zeros_like(array) for array in buffers.statistics]
                if index in self.workspaces:
                    again.workspace = self.workspaces[index].view(arena)
            found.append(again)
        return found

    def forward_steps(self, index: int, bound: list[Buffers]) -> Iterator[Step]:
        """To run the segment that ends with layer `index` forward again, if one does."""
        for number in self.runs.get(index, ()):
            layer = self.plan.steps[number].layer
            run = partial(layer.forward, self.plan.kernels, bound[number], True)
            yield Step(run, layer.repeats(bound[number]))


def kept_blocks(plan: Plan, bounds: list[tuple[int, int]]) -> set[Block]:
    """The blocks whose values later segments, the losses or the caller read; they are never given up."""
    kept = set()
    for first, end in bounds:
        for index in range(first, end):
            crosses = any(consumer >= end for consumer in plan.consumers[index])
            if crosses or index in plan.inputs or plan.read_by_loss(index):
                kept.add(plan.steps[index].value.block)
    return kept


def choices(plan: Plan) -> Iterator[list[int]]:
    """Ways to cut the layers, as lists of each later segment's first layer; the first one cuts nothing.

    A cut falls where a segment's values exceed a budget: anywhere, or only where little is read across it.
    """
    yield []
    everywhere = possible_cuts(plan)
    crossing = [crossing_bytes(plan, cut) for cut in everywhere]
    narrow = [
        cut
        for place, cut in enumerate(everywhere)
        if crossing[place] <= min(crossing[max(place - 1, 0) : place + 2])
    ]
    sizes = [value_bytes(plan, index) for index in range(len(plan.steps))]
    for allowed in (everywhere, narrow):
        for divisor in range(2, MOST_SEGMENTS + 1):
            yield cuts_by_budget(sizes, allowed, sum(sizes) / divisor)


def cuts_by_budget(sizes: list[int], allowed: list[int], budget: float) -> list[int]:
    """Cut at the first allowed place at which the values since the last cut reach `budget`."""
    cuts: list[int] = []
    for cut in allowed:
        if sum(sizes[cuts[-1] if cuts else 0 : cut]) >= budget:
            cuts.append(cut)
    return cuts


def possible_cuts(plan: Plan) -> list[int]:
    """The layers before which a cut separates no two that write into one block."""
    last: dict[Block, int] = {}
    for index, step in enumerate(plan.steps):
        last[step.value.block] = index
    found, reach = [], 0
    for index, step in enumerate(plan.steps):
        if index and reach < index:
            found.append(index)
        reach = max(reach, last[step.value.block])
    return found


def crossing_bytes(plan: Plan, cut: int) -> int:
    """The size of what layers from `cut` on read of those before it."""
    blocks = {
        plan.steps[index].value.block
        for index in range(cut)
        if any(consumer >= cut for consumer in plan.consumers[index])
    }
    return sum(block.size for block in blocks)


def value_bytes(plan: Plan, index: int) -> int:
    """The size of what a layer leaves for the backward pass."""
    step = plan.steps[index]
    shared = step.parents and step.value.block is plan.steps[step.parents[0]].value.block
    own = 0 if shared or not plan.backward_reads(index) else step.value.block.size
    return own + sum(slot.block.size for slot in step.saved)


def largest_sum(lifetimes: Iterable[tuple[int, float, float]]) -> int:
    """The largest sum of sizes (size, first, last) that live at one time, ends included."""
    events = []
    for size, first, last in lifetimes:
        events += [(first, 0, aligned(size)), (last, 1, -aligned(size))]
    total = largest = 0
    for _, _, change in sorted(events):
        total += change
        largest = max(largest, total)
    return largest
