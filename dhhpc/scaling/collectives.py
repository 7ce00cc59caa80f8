"""What an all-reduce takes by the alpha-beta model: a latency for each message, a time for each byte.

Formulas: Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH",
International Journal of High Performance Computing Applications 19(1), 2005, section 4.5. Adding up is
counted with the bytes: it goes on at the speed of memory, far above that of a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2


@dataclass(frozen=True)
class Link:
    """What joins two ranks.

    Attributes:
        latency: seconds of a message without content, alpha.
        bandwidth: bytes a second; one byte takes its inverse, beta.
    """

    latency: float
    bandwidth: float


def all_reduce_ways(size: float, ranks: int) -> list[tuple[float, float]]:
    """What `ranks` ranks, each behind a link of its own, go through to add up `size` bytes each: how many
    latencies and bytes, by recursive doubling and by Rabenseifner's reduce-scatter and all-gather.

    Where the ranks are no power of two, those beyond it hand their bytes over before and get them back after.
    """
    power = 2 ** int(log2(ranks))
    steps = int(log2(power))
    beyond = 0 if power == ranks else 2
    doubling = (steps + beyond, (steps + beyond) * size)
    scattered = (2 * steps + beyond, (2 * (power - 1) / power + beyond) * size)
    return [doubling, scattered]


def all_reduce_seconds(size: float, ranks: int, link: Link) -> float:
    """What it takes `ranks` ranks to add up `size` bytes each, by the faster of `all_reduce_ways`: doubling
    is for what is small, and MPI libraries choose among them too."""
    ways = all_reduce_ways(size, ranks)
    return min(latencies * link.latency + carried / link.bandwidth for latencies, carried in ways)


def hierarchical_all_reduce_seconds(
    size: float, nodes: int, ranks_per_node: int, memory: Link, across: Link
) -> float:
    """The same where the ranks of a node add up through its memory and one of each node talks
    (`parallel.hierarchy: nodes`).

    Each rank writes its bytes, reads its part of everybody's, and reads the sum: three passes of all its
    ranks over `memory`, whose bandwidth is that of the whole node, with a meeting after each.
    """
    if ranks_per_node == 1:
        return all_reduce_seconds(size, nodes, across)
    within = 3 * (memory.latency + ranks_per_node * size / memory.bandwidth)
    return within + all_reduce_seconds(size, nodes, across)
