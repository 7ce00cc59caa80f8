"""Spatial decomposition: one network over several ranks, each of which holds a slab of every activation."""

from __future__ import annotations

import copy
import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dhhpc.eddl.finiteness import NotFiniteError, first_in_forward, not_finite_loss
from dhhpc.eddl.graph import AXES, Array, Layer, Shape
from dhhpc.eddl.layers import Dropout, Input
from dhhpc.eddl.metrics import metric
from dhhpc.eddl.model import Model
from dhhpc.eddl.plan import Plan
from dhhpc.eddl.spatial.exchange import Ranks, RowExchange
from dhhpc.eddl.spatial.layer import SlabLayer
from dhhpc.eddl.spatial.losses import SlabLoss
from dhhpc.eddl.spatial.rows import BY_ROW, check_layer, cuts, window
from dhhpc.errors import DhhpcError

# The order in which what makes a loss no number is looked for.
PHASES = ("input", "backward", "update", "forward", "target", "loss")


def decompose(network: Model, ranks: Ranks, size: Sequence[int] | None = None) -> SlabModel:
    """This rank's part of a network for images that are cut along their first axis (height, or depth of
    volumes) over ranks. It computes what the network would: to rounding, the same outputs, losses and
    gradients, in about 1/ranks of the memory.

    Every convolution, pooling and upsampling layer gets the rows that it needs from the ranks that hold them
    and returns their gradients; zeros are padded at the image's border only (Jin et al., Spatially Parallel
    Convolutions, 2018; Dryden et al., Improving Strong-Scaling of CNN Training by Exploiting Finer-Grained
    Parallelism, 2019).

    Args:
        network: built, with equal parameters on all ranks. Parameters, gradients, statistics and optimizer
            are shared with it: training the part trains the network, which is saved and exported as ever.
        ranks: all of them decompose it, and make all calls of their parts together: `dhhpc.mpi.connect()`.
        size: of the whole images, (height, width) or (depth, height, width); the network's unless given.

    Raises:
        DhhpcError: the network is not built, joins all rows of an image (a dense layer, say), has fewer rows
            than ranks somewhere, or does not take images of this size.
    """
    return SlabModel(network, ranks, size)


class SlabModel(Model):
    """A rank's part of a network, see `decompose`. As a `Model`, but inputs, targets and predictions hold
    this rank's rows, and losses and metrics are those of whole images, alike on all ranks.

    Attributes:
        rows: (start, stop) of this rank's rows of the input.
    """

    def __init__(self, network: Model, ranks: Ranks, size: Sequence[int] | None = None) -> None:
        self.ranks = ranks
        self.whole = check(network, ranks.size, size)
        parts: dict[int, Layer] = {}
        for layer in network.layers:
            parents = [parts[id(parent)] for parent in layer.parents]
            parts[id(layer)] = self.part(layer, parents)
        super().__init__(
            [parts[id(layer)] for layer in network.inputs],
            [parts[id(layer)] for layer in network.outputs],
            network.name,
        )
        self.share_with(network)
        self.rows = self.own(self.whole[id(network.inputs[0])][1])

    def own(self, rows: int) -> tuple[int, int]:
        """The rows (start, stop) that this rank holds of so many."""
        bounds = cuts(rows, self.ranks.size)
        return bounds[self.ranks.rank], bounds[self.ranks.rank + 1]

    def part(self, layer: Layer, parents: Sequence[Layer]) -> Layer:
        """This rank's part of a layer, over those of its inputs."""
        first, last = self.own(self.whole[id(layer)][1])
        if isinstance(layer, BY_ROW):
            return self.on_own_rows(layer, parents)
        rows = self.whole[id(layer.parents[0])][1]
        bounds, wanted = cuts(rows, self.ranks.size), cuts(self.whole[id(layer)][1], self.ranks.size)
        windows = [window(layer, rows, *pair) for pair in itertools.pairwise(wanted)]
        exchange = RowExchange(self.ranks, bounds, [(each.start, each.stop) for each in windows])
        mine = windows[self.ranks.rank]
        slab = SlabLayer(layer, parents[0], mine, exchange, first, last)
        return slab if slab.moves_rows else slab.inner

    def on_own_rows(self, layer: Layer, parents: Sequence[Layer]) -> Layer:
        """The same layer over other inputs."""
        part = copy.copy(layer)
        part.parents = tuple(parents)
        if isinstance(part, Input):
            channels, rows, *rest = self.whole[id(layer)]
            first, last = self.own(rows)
            part.extents = (channels, last - first, *rest)
        part.shape = part.output_shape(*(parent.shape for parent in parents))
        return part

    def share_with(self, network: Model) -> None:
        """Take the network's arrays and all that its `build` has made."""
        # Layers stand in for layers one by one, so they come in the same order.
        assert [layer.name for layer in self.layers] == [layer.name for layer in network.layers]
        self.parameter_vector, self.parameter_views = network.parameter_vector, network.parameter_views
        self.gradient_vector, self.gradient_views = network.gradient_vector, network.gradient_views
        self.statistics_vector, self.statistic_views = network.statistics_vector, network.statistic_views
        self.randomness, self.optimizer = network.randomness, network.optimizer
        self.device, self.metrics, self.built = network.device, network.metrics, True
        self.sum_over_ranks.add = self.ranks.allreduce_sum
        self.heights = [self.whole[id(output)][1] for output in network.outputs]
        self.losses = [
            SlabLoss(loss.names, output, output.shape[1] / height, self.ranks)
            for loss, output, height in zip(network.losses, self.outputs, self.heights, strict=False)
        ]

    def build(self, *arguments: Any, **options: Any) -> None:
        """Not for a part.

        Raises:
            DhhpcError: always.
        """
        raise DhhpcError(f"{self.name}: a part is built with its network; build that, and decompose it again")

    # -- arrays --------------------------------------------------------------------------------------------

    def cut(self, array: Array, axis: int = 2) -> Array:
        """This rank's rows of a whole array: images, masks or predictions (samples, channels, rows, ...).
        Masks of class indices have their rows on axis 1."""
        first, last = self.own(array.shape[axis])
        return array[(slice(None),) * axis + (slice(first, last),)]

    def gather(self, outputs: Sequence[Array]) -> list[Array]:
        """Whole predictions, on every rank, from all ranks' rows as `predict` returns them."""
        whole = []
        for output, height in zip(outputs, self.heights, strict=True):
            parts = {
                rank: np.empty((*output.shape[:2], stop - start, *output.shape[3:]), output.dtype)
                for rank, (start, stop) in enumerate(itertools.pairwise(cuts(height, self.ranks.size)))
            }
            parts[self.ranks.rank] = mine = np.ascontiguousarray(output)
            others = [rank for rank in parts if rank != self.ranks.rank]
            self.ranks.exchange(dict.fromkeys(others, mine), {rank: parts[rank] for rank in others})
            whole.append(np.concatenate(list(parts.values()), axis=2))
        return whole

    # -- running -------------------------------------------------------------------------------------------

    def plan(self, inputs: Sequence[Array], training: bool) -> Plan:
        for layer, array in zip(self.inputs, inputs, strict=True):
            if array.shape[2] != layer.shape[1]:
                raise layer.refuse(
                    f"rank {self.ranks.rank} of {self.ranks.size} takes {layer.shape[1]} rows, found "
                    f"{array.shape[2]}; give those that cut() returns, or decompose the network for this size"
                )
        return super().plan(inputs, training)

    def forward_with_loss(
        self, inputs: Sequence[Array], targets: Sequence[Array], first_sample: int
    ) -> tuple[Plan, dict[str, float]]:
        for layer in self.layers:
            if isinstance(layer, Dropout) and layer.rate:
                raise layer.refuse("dropout draws for whole images, not for parts; leave it out for training")
        return super().forward_with_loss(inputs, targets, first_sample)

    def compute_gradients(
        self,
        inputs: Sequence[Array],
        targets: Sequence[Array],
        first_sample: int = 0,
        completed: Callable[[int], None] | None = None,
    ) -> dict[str, float]:
        """As `Model.compute_gradients`; `gradient_vector` is that of the whole images, on every rank."""
        results = super().compute_gradients(inputs, targets, first_sample)
        self.ranks.allreduce_sum(self.gradient_vector)
        if completed is not None:
            completed(0)
        return results

    def train_batch(
        self, inputs: Sequence[Array], targets: Sequence[Array], first_sample: int = 0
    ) -> dict[str, float]:
        """`compute_gradients` and `apply_gradients` in one."""
        self.get_optimizer()
        results = self.compute_gradients(inputs, targets, first_sample)
        self.apply_gradients()
        return results

    def metric_values(self, prediction: Array, target: Array) -> dict[str, float]:
        values = {}
        for name in self.metrics:
            sums = metric(name).sums(prediction, target)
            self.ranks.allreduce_sum(sums)
            values[name] = metric(name).of_sums(sums)
        return values

    def not_finite(
        self, plan: Plan, inputs: Sequence[Array], targets: Sequence[Array], loss: float
    ) -> NotFiniteError:
        """The same on every rank: what the ranks find, the earliest."""
        found = first_in_forward(plan, inputs, to_the_end=True)
        mine = not_finite_loss(self, plan, inputs, targets, loss, lambda *_: found)
        names = [layer.describe() for layer in self.layers]

        def place(error: NotFiniteError) -> tuple[int, int]:
            return PHASES.index(error.phase), names.index(error.layer) if error.layer else 0

        errors: list[NotFiniteError] = self.ranks.allgather_object(mine)
        return min(errors, key=place)


def shapes_of(network: Model, size: Sequence[int] | None) -> dict[int, Shape]:
    """The shape of each layer's output by its id, for images of `size`.

    Raises:
        DhhpcError: they do not fit the network.
    """
    shapes: dict[int, Shape] = {}
    for layer in network.layers:
        if layer.parents:
            shapes[id(layer)] = layer.output_shape(*(shapes[id(parent)] for parent in layer.parents))
            continue
        if len(layer.shape) - 1 not in AXES:
            raise layer.refuse(f"samples of shape {layer.shape} have no rows; decompose networks of images")
        extents = layer.shape[1:] if size is None else tuple(int(extent) for extent in size)
        if len(extents) != len(layer.shape) - 1 or min(extents) < 1:
            raise layer.refuse(f"size {list(extents)} does not fit samples of shape {layer.shape}")
        shapes[id(layer)] = (layer.shape[0], *extents)
    return shapes


def check(network: Model, ranks: int, size: Sequence[int] | None = None) -> dict[int, Shape]:
    """Refuse what `decompose` cannot cut for so many ranks; returns what `shapes_of` does.

    Raises:
        DhhpcError: see `decompose`; where a rank would hold no row of some activation, it names the layer and
            the fewest rows that do.
    """
    if not network.built:
        raise DhhpcError(f"{network.name}: call build() before it is decomposed")
    if network.memory != "full":
        raise DhhpcError(
            f"{network.name}: memory {network.memory!r} cannot be decomposed, as each rank would choose for "
            "itself what to compute again; build it with memory full"
        )
    for layer in network.layers:
        check_layer(layer)
    shapes = shapes_of(network, size)
    least = min(network.layers, key=lambda layer: shapes[id(layer)][1])
    rows = shapes[id(least)][1]
    if rows < ranks:
        extents = shapes[id(network.inputs[0])][1:]
        raise DhhpcError(
            f"{network.name}: of {extents[0]} rows {rows} are left at {least.describe()}, too few for "
            f"{ranks} ranks; give images of at least {fewest_rows(network, extents, ranks)} rows, or start "
            f"{rows} ranks at most"
        )
    return shapes


def fewest_rows(network: Model, size: Shape, ranks: int) -> int:
    """The fewest rows of images, otherwise of `size`, that give every rank a row of each activation."""

    def left(rows: int) -> int:
        """The fewest rows of any activation; 0 where the network takes no such images."""
        try:
            return min(shape[1] for shape in shapes_of(network, (rows, *size[1:])).values())
        except DhhpcError:
            return 0

    # Networks with pooling often take multiples of a power of two only.
    step = 1
    while step < size[0] and not left(size[0] + step):
        step *= 2
    candidates = range(size[0], ranks * size[0] + step, step)
    return candidates[bisect_left(candidates, ranks, hi=len(candidates) - 1, key=left)]
