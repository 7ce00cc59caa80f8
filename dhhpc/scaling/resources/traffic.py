"""What ranks take to average, before any has: the bytes of the method, by the alpha-beta model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dhhpc.scaling.collectives import Link, all_reduce_seconds, hierarchical_all_reduce_seconds
from dhhpc.training.footprint import FLOAT, Counting
from dhhpc.training.parallel import Gradient, LocalSGD, Periodic, TwoLevel

# Two whole numbers, by which ranks meet.
MEETING = 16


@dataclass(frozen=True)
class Network:
    """What joins ranks.

    Attributes:
        across: what joins nodes; the ranks of one share it.
        memory: what joins the ranks of a node, each with all the others.
    """

    across: Link
    memory: Link


# 10 Gbit Ethernet, which nearly every cluster has or betters, and one memory channel's copies.
ASSUMED = Network(across=Link(20e-6, 1.25e9), memory=Link(2e-6, 5e9))


def all_reduce(size: float, nodes: int, ranks_per_node: int, by_nodes: bool, network: Network) -> float:
    """The seconds of a sum of `size` bytes over all ranks.

    Args:
        by_nodes: the ranks of a node combine, and one of each talks (`parallel.hierarchy: nodes`).
    """
    if nodes == 1:
        return all_reduce_seconds(size, ranks_per_node, network.memory)
    if by_nodes:
        return hierarchical_all_reduce_seconds(size, nodes, ranks_per_node, network.memory, network.across)
    shared = Link(network.across.latency, network.across.bandwidth / ranks_per_node)
    return all_reduce_seconds(size, nodes * ranks_per_node, shared)


def averaging_seconds(counting: Counting, nodes: int, ranks_per_node: int, network: Network) -> float:
    """What the averaging of an experiment adds to each batch, in the mean of the run, on so many ranks.

    As if nothing of it went on during the backward pass. Where the period of a method changes, the shortest
    counts.
    """
    parallel, epochs = counting.experiment.parallel, counting.experiment.epochs
    ranks = nodes * ranks_per_node
    if ranks == 1:
        return 0.0

    def summed(size: float) -> float:
        by_nodes = parallel.hierarchy == "nodes"
        return all_reduce(size, nodes, ranks_per_node, by_nodes, network) if size else 0.0

    def vector(count: float) -> float:
        """The sum of so many parameters or gradients, which may be compressed."""
        if parallel.compression is None:
            return summed(FLOAT * count)
        size = parallel.compression.create().size_of(math.ceil(count))
        if parallel.compression.method != "top-k":
            return summed(size)
        # Each gets what all others send.
        link = network.memory if nodes == 1 else network.across
        return link.latency * math.log2(ranks) + (ranks - 1) * size * ranks_per_node / link.bandwidth

    count, statistics = counting.model.parameter_count, counting.statistics

    def of_gradients(bucket_megabytes: float) -> float:
        floats = math.ceil(bucket_megabytes * 2**20 / FLOAT)
        buckets = max(1, count // floats) if floats else 1
        return buckets * vector(count / buckets) + summed(statistics) + summed(MEETING)

    if isinstance(parallel, Gradient):
        seconds = of_gradients(parallel.bucket_megabytes)
        if parallel.batch_normalization == "synchronised":
            layers = sum(bool(layer.statistics()) for layer in counting.model.layers)
            seconds += 2 * layers * summed(statistics / max(1, layers)) - summed(statistics)
        return seconds
    averaged = counting.optimizer_state if getattr(parallel, "optimizer_state", "keep") == "average" else 0
    if isinstance(parallel, TwoLevel):
        size = FLOAT * count + statistics + averaged
        group = parallel.ranks_per_group or ranks_per_node
        near = all_reduce_seconds(size, group, network.memory)
        far = all_reduce(size, max(1, ranks // group), 1, False, network)
        # The mean is then passed on in the group, which takes no longer than a sum.
        return near / parallel.near_period + (near + far) / parallel.period
    assert isinstance(parallel, Periodic)
    met = vector(count) + summed(statistics) + summed(averaged) + summed(MEETING)
    if isinstance(parallel, LocalSGD):
        first = min(1.0, parallel.switch_epoch / epochs)
        return first * of_gradients(Gradient().bucket_megabytes) + (1 - first) * met / parallel.period
    return met / parallel.period
