"""What a method of learning together does in an epoch on so many ranks: its steps, bytes and meetings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import parts
from dhhpc.scaling.forecasts.network import Machine
from dhhpc.training.experiment import Experiment
from dhhpc.training.method import Method
from dhhpc.training.parallel import BlockMomentum, DiLoCo, Elastic, Gradient, LocalSGD, Periodic, TwoLevel
from dhhpc.training.periods import Fixed, Period

Array = np.ndarray[Any, Any]

FLOAT = 4
# Two 64-bit numbers.
MEETING_BYTES = 16


@dataclass(frozen=True)
class Network:
    """What is learned: numbers of its parameters, of statistics of batch normalisation, and of what the
    optimizer remembers of each parameter."""

    parameters: int
    statistics: int = 0
    moments: int = 0


@dataclass(frozen=True)
class Step:
    """Batches that are alike: how many, and the samples of each that every rank takes, (ranks,) int."""

    count: int
    samples: Array


@dataclass(frozen=True)
class Meetings:
    """How ranks meet, in seconds once all are there.

    Attributes:
        meeting: the few numbers that separate waiting from communication.
        buckets: of gradients, in the order of sending; empty where ranks average parameters.
        overlaps: whether buckets are sent while the backward pass goes on.
        average: of all that is averaged after a step, or at an averaging.
        period: how the batches between averagings are chosen; 1 with gradients.
        ends: whether what is left over at the end of an epoch is averaged.
        near: of an averaging in a group; and the batches between two, 0 for no groups.
        group: ranks of a group.
    """

    meeting: float
    average: float
    period: Period
    buckets: tuple[float, ...] = ()
    overlaps: bool = True
    ends: bool = True
    near: float = 0.0
    near_period: int = 0
    group: int = 1

    @property
    def gradients(self) -> bool:
        return bool(self.buckets)


@dataclass(frozen=True)
class Saving:
    """A checkpoint: seconds that training stands still for it, and that it takes to lie on the disk."""

    pause: float
    write: float
    every_epochs: int
    asynchronous: bool


@dataclass(frozen=True)
class Plan:
    """Training on `ranks` ranks.

    Attributes:
        steps: of an epoch, in order.
        images: of the validation split, by rank.
        first, switch_epoch: in the epochs before, ranks meet by `first`; then by `meetings`.
    """

    ranks: int
    steps: tuple[Step, ...]
    images: Array
    meetings: Meetings
    saving: Saving
    first: Meetings | None = None
    switch_epoch: int = 0

    @property
    def batches(self) -> int:
        return sum(step.count for step in self.steps)

    def meetings_of(self, epoch: int) -> Meetings:
        """How ranks meet in an epoch, from 0."""
        return self.first if self.first is not None and epoch < self.switch_epoch else self.meetings


def plan(
    experiment: Experiment, network: Network, samples: int, images: int, ranks: int, machine: Machine
) -> Plan:
    """What training an experiment on `ranks` ranks of a machine does.

    Args:
        samples, images: of the training and the validation split.

    Raises:
        DhhpcError: the method is none that can be simulated, or its ranks do not fit work or machine.
    """
    if ranks > machine.most_ranks:
        raise DhhpcError(
            f"--ranks {ranks}: {machine.name} has {machine.nodes} nodes of {machine.ranks_per_node} ranks; "
            f"ask for at most {machine.most_ranks}"
        )
    if ranks > samples:
        raise DhhpcError(
            f"--ranks {ranks}: {samples} training samples are fewer than the ranks; ask for fewer, or assume "
            f"more samples with --samples"
        )
    method = experiment.parallel
    refuse_unknown(method)
    held = FLOAT * network.parameters * (2 + network.moments)
    if held * machine.on_a_node(ranks) > machine.memory.gigabytes * 1e9:
        raise DhhpcError(
            f"{machine.name}: {machine.on_a_node(ranks)} ranks hold {held / 1e9:.1f} GB each of parameters, "
            f"gradients and optimizer state, more than the {machine.memory.gigabytes:g} GB of a node; lower "
            f"ranks_per_node"
        )
    switched = isinstance(method, LocalSGD) and method.switch_epoch > 0
    return Plan(
        ranks=ranks,
        steps=steps_of(experiment, samples, ranks),
        images=np.array([len(part) for part in parts(images, [1.0] * ranks)]),
        meetings=meetings_of(method, network, ranks, machine),
        saving=saving_of(experiment, network, ranks, machine),
        first=meetings_of(Gradient(compression=method.compression), network, ranks, machine)
        if switched
        else None,
        switch_epoch=method.switch_epoch if isinstance(method, LocalSGD) else 0,
    )


def refuse_unknown(method: Method) -> None:
    """Refuse what the simulation knows nothing of.

    Raises:
        DhhpcError: names the key of the experiment.
    """
    if not isinstance(method, Gradient | Periodic | TwoLevel):
        raise DhhpcError("parallel.method: spatial training cannot be simulated; choose another method")
    if isinstance(method, Gradient) and method.batch_normalization == "synchronised":
        raise DhhpcError(
            "parallel.batch_normalization: synchronised statistics cannot be simulated; choose local"
        )
    if method.compression is not None and method.compression.method == "top-k":
        raise DhhpcError("parallel.compression: top-k cannot be simulated; choose fp16 or bf16")
    if method.split == "measured":
        raise DhhpcError("parallel.split: measured splits cannot be simulated; choose equal")


def steps_of(experiment: Experiment, samples: int, ranks: int) -> tuple[Step, ...]:
    """The whole batches of an epoch, and the one of what is left, dealt out as the loader does."""
    split = experiment.parallel.split
    weights = split if isinstance(split, list) else [1.0] * ranks
    if len(weights) != ranks:
        raise DhhpcError(
            f"parallel.split: has weights for {len(weights)} ranks, not {ranks}; forecast that number, or "
            f"choose equal"
        )
    batch = experiment.rank_batch_size(ranks) * ranks
    whole, rest = divmod(samples, batch)
    found = [(whole, batch), (1 if rest else 0, rest)]
    return tuple(
        Step(count, np.array([len(part) for part in parts(size, weights)])) for count, size in found if count
    )


def meetings_of(method: Method, network: Network, ranks: int, machine: Machine) -> Meetings:
    """How ranks meet by a method that can be simulated."""
    by_nodes = method.hierarchy == "nodes"

    def seconds(size: float) -> float:
        return machine.sum_seconds(size, ranks, by_nodes) if size else 0.0

    sent = FLOAT * network.parameters / (1 if method.compression is None else 2)
    statistics = seconds(FLOAT * network.statistics)
    meeting = seconds(MEETING_BYTES)
    if isinstance(method, Gradient):
        smallest = math.ceil(method.bucket_megabytes * 2**20 / FLOAT)
        count = max(1, network.parameters // smallest) if smallest else 1
        return Meetings(
            meeting,
            statistics,
            Fixed(1),
            buckets=(seconds(sent / count),) * count,
            overlaps=smallest > 0,
        )
    assert isinstance(method, Periodic | TwoLevel)
    state = FLOAT * network.parameters * network.moments * (method.optimizer_state == "average")
    if isinstance(method, TwoLevel):
        group = min(ranks, method.ranks_per_group or machine.ranks_per_node)
        vectors = [FLOAT * network.parameters, FLOAT * network.statistics, state]
        return two_levels(method, vectors, ranks, group, machine)
    average = statistics + (seconds(state) if state else 0.0) + seconds(sent)
    ends = not isinstance(method, Elastic | DiLoCo)
    return Meetings(meeting, average, method.choice(), ends=ends)


def two_levels(
    method: TwoLevel, sizes: Sequence[float], ranks: int, group: int, machine: Machine
) -> Meetings:
    """Averagings of groups, then of their first ranks, which pass the mean on."""
    groups = -(-ranks // group)
    near = sum(machine.sum_seconds(size, group) for size in sizes if size)
    # The first ranks of groups: one of each node, or of each group where a node has several.
    nodes = min(groups, machine.nodes_of(ranks))
    leaders = machine.model_copy(update={"ranks_per_node": max(1, -(-groups // nodes))})
    far = sum(leaders.sum_seconds(size, groups) for size in sizes if size)
    passes = sum(
        math.ceil(math.log2(group)) * (machine.within.latency + size / machine.within.bandwidth)
        for size in sizes
        if size and group > 1
    )
    meeting = machine.sum_seconds(MEETING_BYTES, ranks)
    return Meetings(
        meeting, far + passes, Fixed(method.period), near=near, near_period=method.near_period, group=group
    )


def saving_of(experiment: Experiment, network: Network, ranks: int, machine: Machine) -> Saving:
    """A checkpoint at an epoch's end: of what all agree upon, and of what each rank has of its own."""
    method, choice = experiment.parallel, experiment.checkpoint
    parameters = FLOAT * network.parameters
    model = parameters + FLOAT * network.statistics
    state = parameters * network.moments
    remembered = {BlockMomentum: 2, DiLoCo: 1}.get(type(method), 0) * parameters
    agreed, own = float(model + state + remembered), 0.0
    if ranks > 1 and isinstance(method, Elastic | DiLoCo):
        own = float(model + state)
    elif ranks > 1 and isinstance(method, Periodic) and method.optimizer_state == "keep":
        agreed, own = agreed - state, float(state)
    smallest = max(1, round(choice.shard_megabytes * 2**20))
    writers = ranks if own else int(max(1, min(ranks, agreed // smallest)))
    # Before it, ranks meet twice: to look for what is not finite, and for the writing of the one before.
    pause = machine.copy_seconds(agreed / writers + own, ranks)
    pause += 2 * machine.sum_seconds(MEETING_BYTES, ranks)
    return Saving(
        pause=pause,
        write=machine.write_seconds(agreed + ranks * own, writers, ranks),
        every_epochs=choice.every_epochs,
        asynchronous=choice.asynchronous,
    )
