"""A measured machine as one that `dhhpc scale simulate` takes."""

from __future__ import annotations

from math import log2

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.network import LinkDocument, Machine, Memory, Storage
from dhhpc.scaling.forecasts.probe import Line, Probe


def machine_of(probe: Probe) -> Machine:
    """The machine that a probe has measured, without failures, queue and prices, which it cannot know.

    On one node the link is the one with which the model of sums agrees with the measured ones; of several
    nodes it is that of messages. Nothing is said to overlap with computing: `python -m
    dhhpc.benchmarks.overlap` measures that.

    Raises:
        DhhpcError: there was one rank, so no link.
    """
    if probe.sums is None:
        raise DhhpcError("--machine: one rank has nobody to send to; probe with --ranks 2 or more")
    nodes = len(probe.hosts)
    # With one rank a node, or one node, there is nothing to tell apart.
    measured = [line for line in (probe.within, probe.across) if line is not None]
    near, far = link(measured[0]), link(measured[-1])
    if nodes == 1:
        near = far = link_of_sums(probe.sums, probe.ranks)
    return Machine(
        name=probe.hosts[0] if nodes == 1 else f"{nodes} nodes like {probe.hosts[0]}",
        nodes=nodes,
        cores_per_node=probe.cores,
        ranks_per_node=probe.ranks_per_node,
        cores_per_rank=max(1, probe.cores // probe.ranks_per_node),
        within=near,
        across=far,
        overlap=0.0,
        memory=Memory(gigabytes=probe.memory / 1e9, bandwidth=probe.copy),
        storage=Storage(
            bandwidth=probe.disk.write,
            node_bandwidth=probe.disk.write / nodes,
            latency=probe.disk.latency,
        ),
    )


def link(line: Line) -> LinkDocument:
    return LinkDocument(latency=line.latency, bandwidth=line.bandwidth)


def link_of_sums(sums: Line, ranks: int) -> LinkDocument:
    """The link with which `all_reduce_seconds` takes as long as was measured: small sums by their latency,
    large ones by their bytes."""
    power = 2 ** int(log2(ranks))
    beyond = 0 if power == ranks else 2
    messages = int(log2(power)) + beyond
    passes = (1 if ranks == 2 else 2 * (power - 1) / power) + beyond
    return LinkDocument(latency=sums.latency / messages, bandwidth=sums.bandwidth * passes)
