"""The mechanistic model of totm: what the ranks do, each part fitted to the seconds that runs spent on it.

totm on n ranks is the sum of

- computing and loading: seconds a sample, times the samples of a rank;
- averaging: for each, an all-reduce by the alpha-beta model (`dhhpc.scaling.collectives`), where the arrays
  of a node's ranks add up in its memory first if the experiment says so (`parallel.hierarchy: nodes`); its
  latency is that of all the messages that an averaging consists of;
- imbalance: at each meeting the ranks wait for the slowest. Where the seconds of a batch vary normally with a
  standard deviation that is a share `jitter` of their mean, n ranks wait that deviation times the expected
  maximum of n standard normal numbers on average (Kruskal and Weiss, "Allocating Independent Subtasks on
  Parallel Processors", IEEE Transactions on Software Engineering 11(10), 1985); of the b batches between two
  meetings the deviations add up to sqrt(b) of one;
- validation, whose images the ranks share; checkpoints; and what comes once.

A record tells the seconds of each part, so latency is not mistaken for imbalance, nor validation for serial
work: from totm alone these are not told apart. Errors and intervals are as in `dhhpc.scaling.fits.laws`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dhhpc.scaling.bootstrap import DRAWS, SEED, errors_drawn, interval_of_estimate
from dhhpc.scaling.collectives import all_reduce_ways
from dhhpc.scaling.fits.fitted import CurvePoint, Fit, Parameter, goodness, too_few, usual
from dhhpc.scaling.fits.least_squares import MOST_CONDITION, condition, not_negative

Array = np.ndarray[Any, Any]

# Parts below this share of totm are measured too coarsely for errors relative to themselves.
LEAST_SHARE = 1e-3
# Passes over the memory of a node that each rank makes for an averaging; see `dhhpc.scaling.collectives`.
PASSES = 3


@dataclass(frozen=True)
class Observation:
    """What one run tells; seconds are means over the ranks.

    Attributes:
        nodes: that its ranks were on.
        by_nodes: the ranks of a node add up in its memory, and one of each node talks.
        samples: of all ranks together, over all epochs.
        batches, averagings: of each rank, over all epochs.
        size: bytes that each rank brings to an averaging.
        once: seconds that no other part has.
    """

    ranks: int
    nodes: int
    by_nodes: bool
    epochs: int
    samples: int
    batches: int
    averagings: int
    size: float
    totm: float
    compute: float
    data: float
    communication: float
    wait: float
    validation: float
    checkpoint: float
    once: float

    @property
    def ranks_per_node(self) -> int:
        return self.ranks // self.nodes if self.by_nodes else 1

    @property
    def meeting_ranks(self) -> int:
        """Those that send to each other."""
        return self.ranks // self.ranks_per_node


@cache
def expected_maximum(count: int) -> float:
    """Of so many independent standard normal numbers: the integral of x n phi(x) Phi(x)^(n-1)."""
    x = np.linspace(-9.0, 9.0, 18001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float((x * count * density * below ** (count - 1)).sum() * (x[1] - x[0]))


@dataclass(frozen=True)
class Part:
    """A part of totm.

    Attributes:
        field: of an `Observation`, its seconds.
        parameters: names and units.
        columns: (N, W, P), what each parameter is multiplied with in each run, by each way of doing it, of
            which the fastest counts. Runs whose columns are all zero do not have the part.
    """

    field: str
    parameters: Sequence[tuple[str, str]]
    columns: Array


def fit_mechanism(runs: Sequence[Observation], draws: int = DRAWS, seed: int = SEED) -> Fit:
    """The model fitted to runs; refused where they are too thin for it, or it does not hold of them.

    Args:
        draws, seed: of the bootstrap, which draws the relative errors of each part again.
    """

    def refused(reason: str) -> Fit:
        return Fit(model="mechanistic", refused=reason, observations=len(runs))

    reason = why_refused(runs)
    if reason is not None:
        return refused(reason)
    ranks, totm = (np.array([getattr(run, name) for run in runs], float) for name in ("ranks", "totm"))
    modelled = np.zeros(len(runs))
    parameters: list[Parameter] = []
    for part in parts_of(runs):
        seconds = np.array([getattr(run, part.field) for run in runs])
        had = part.columns.any(axis=(1, 2))
        if not seconds[had].any():
            continue
        weights = (1 / np.maximum(usual(ranks, seconds), LEAST_SHARE * usual(ranks, totm)))[had]
        columns, seconds = part.columns[had], seconds[had]
        found = solve(columns, weights, seconds[:, None])
        fitted = fastest(columns, found)
        if not told_apart(columns, weights, found):
            return refused(
                "latency and bandwidth cannot be told apart: on these rank counts all messages are so small "
                "that they take the way in which both grow alike"
            )
        errors = errors_drawn((seconds - fitted[:, 0]) * weights, len(part.parameters), draws, seed)
        drawn = solve(columns, weights, fitted + errors / weights[:, None])
        freedom = len(seconds) - len(part.parameters)
        for (name, unit), value, values in zip(part.parameters, found[:, 0].tolist(), drawn, strict=True):
            low, high = interval_of_estimate(value, values, freedom)
            parameters.append(Parameter(name=name, unit=unit, value=value, low=low, high=high))
        modelled[had] += fitted[:, 0]
    shown = np.unique(ranks)
    return Fit(
        model="mechanistic",
        observations=len(runs),
        parameters=parameters,
        curve=[CurvePoint(ranks=int(count), seconds=modelled[ranks == count].mean()) for count in shown],
        **goodness(ranks, totm, modelled, len(parameters)),
    )


def parts_of(runs: Sequence[Observation]) -> list[Part]:
    """What totm is the sum of."""

    def simple(field: str, name: str, unit: str, column: Sequence[float]) -> Part:
        return Part(field, [(name, unit)], np.asarray(column, float)[:, None, None])

    of_rank = [run.samples / run.ranks for run in runs]
    # Of the computing between two meetings, the deviation is a share; all meetings have these together.
    waits = [
        run.compute * expected_maximum(run.ranks) * math.sqrt(run.averagings / run.batches)
        if run.ranks > 1
        else 0.0
        for run in runs
    ]
    return [
        simple("compute", "compute", "s/sample", of_rank),
        simple("data", "data", "s/sample", of_rank),
        Part("communication", link_parameters(runs), communication_columns(runs)),
        simple("wait", "jitter", "", waits),
        simple("validation", "validation", "s/epoch", [run.epochs / run.ranks for run in runs]),
        simple("checkpoint", "checkpoint", "s/epoch", [run.epochs for run in runs]),
        simple("once", "once", "s", [1.0] * len(runs)),
    ]


def link_parameters(runs: Sequence[Observation]) -> list[tuple[str, str]]:
    """Names and units: alpha, the inverse of the bandwidth, and that of a node's memory if that is used."""
    names = [("latency", "s"), ("seconds_per_byte", "s/byte")]
    if any(run.ranks_per_node > 1 for run in runs):
        names.append(("memory_seconds_per_byte", "s/byte"))
    return names


def communication_columns(runs: Sequence[Observation]) -> Array:
    """(N, 2, P): what each of `link_parameters` is multiplied with, by each way of an all-reduce."""
    columns = np.zeros((len(runs), 2, len(link_parameters(runs))))
    for number, run in enumerate(runs):
        for way, (latencies, carried) in enumerate(all_reduce_ways(run.size, run.meeting_ranks)):
            columns[number, way, :2] = latencies * run.averagings, carried * run.averagings
        if run.ranks_per_node > 1:
            columns[number, :, 2] = PASSES * run.ranks_per_node * run.size * run.averagings
    return columns


def fastest(columns: Array, parameters: Array) -> Array:
    """Seconds (N, R) by the fastest way, from columns (N, W, P) and parameters (P, R)."""
    seconds: Array = np.einsum("nwp,pr->wnr", columns, parameters).min(axis=0)
    return seconds


def solve(columns: Array, weights: Array, seconds: Array) -> Array:
    """The parameters (P, R), not negative, whose `fastest` come nearest to seconds (N, R).

    For given ways, one a run, this is linear; of all ways that latency and bandwidth can make the fastest
    together, the best counts.
    """
    best = np.zeros((columns.shape[2], seconds.shape[1]))
    least = np.full(seconds.shape[1], np.inf)
    for ways in regimes(columns):
        chosen = columns[np.arange(len(columns)), ways]
        found = not_negative(chosen * weights[:, None], seconds * weights[:, None])
        error = (((fastest(columns, found) - seconds) * weights[:, None]) ** 2).sum(axis=0)
        better = error < least
        best[:, better], least[better] = found[:, better], error[better]
    return best


def regimes(columns: Array) -> list[Array]:
    """Which way each run takes, (N,) int, for every latency against bandwidth.

    The first way (recursive doubling) is the faster one where latency over seconds a byte is above the bytes
    that it has more, over the latencies that it has fewer.
    """
    if columns.shape[1] == 1:
        return [np.zeros(len(columns), int)]
    fewer = columns[:, 1, 0] - columns[:, 0, 0]
    more = columns[:, 0, 1] - columns[:, 1, 1]
    switch = np.divide(more, fewer, out=np.zeros(len(fewer)), where=fewer > 0)
    return [(switch > limit).astype(int) for limit in [-1.0, *np.unique(switch).tolist()]]


def told_apart(columns: Array, weights: Array, found: Array) -> bool:
    """Whether the parameters found (P, 1) are more than one way to say the same."""
    seconds = columns @ found[:, 0]
    # Where both ways take the same time, latency and bandwidth may be anything that leaves it so.
    ways = (seconds > seconds.min(axis=1, keepdims=True) * (1 + 1e-6)).argmin(axis=1)
    taken = columns[np.arange(len(columns)), ways]
    return condition(taken * weights[:, None]) < MOST_CONDITION


def why_refused(runs: Sequence[Observation]) -> str | None:
    """A sentence why these runs do not determine the model; None if they may."""
    refused = too_few("each part of the model", 1, len({run.ranks for run in runs}))
    if refused is not None:
        return refused
    meeting = [run for run in runs if run.ranks > 1]
    if any(run.by_nodes and run.ranks % run.nodes for run in runs):
        return "the nodes of a run had different numbers of ranks"
    refused = too_few("averaging", len(link_parameters(runs)), len({run.ranks for run in meeting}))
    if refused is not None:
        return f"{refused} above one"
    if not all(run.averagings for run in meeting):
        return "a run on several ranks never averaged"
    return None
