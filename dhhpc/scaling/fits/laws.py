"""The laws of scaling, fitted to the seconds of runs by rank count alone.

T(n) are the seconds on n ranks: totm, or the time of preprocessing.

- Amdahl (AFIPS 1967), of the same work on all rank counts: T(n) = T(1) (s + (1 - s) / n), with s the serial
  fraction of the time on one rank.
- Gustafson (CACM 31(5), 1988), of work that grows with the ranks: the speed-up is s + (1 - s) n, with s the
  serial fraction of the time on n ranks, so that T(n) = T(1) n / (s + (1 - s) n).
- The Universal Scalability Law (Gunther, "Guerrilla Capacity Planning", Springer, 2007, chapter 4): the
  capacity is n / (1 + sigma (n - 1) + kappa n (n - 1)), with sigma for contention (ranks wait for what is
  shared) and kappa for coherence (each rank has to agree with each other one).

All minimise the sum of squared errors, each as a part of the mean on as many ranks, since longer runs
vary by more seconds, and have no parameter below zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dhhpc.scaling.bootstrap import DRAWS, SEED, errors_drawn, interval_of_estimate
from dhhpc.scaling.fits.fitted import CurvePoint, Fit, ModelName, Parameter, between, goodness, too_few, usual
from dhhpc.scaling.fits.least_squares import not_negative

Array = np.ndarray[Any, Any]

# Serial fractions that a fit of Gustafson's law looks at first.
FRACTIONS = np.linspace(0.0, 1.0, 401)


@dataclass(frozen=True)
class Law:
    """A law of scaling.

    Attributes:
        parameters: names and units; a fraction is at most 1.
        solve: parameters (P, R) from ranks (N,), weights (N,) and seconds (N, R).
        seconds: T (N, R) from ranks (N,) and parameters (P, R).
    """

    model: ModelName
    name: str
    parameters: tuple[tuple[str, str], ...]
    solve: Callable[[Array, Array, Array], Array]
    seconds: Callable[[Array, Array], Array]


def part_of(part: Array, whole: Array) -> Array:
    """part / whole, and 0 of nothing."""
    divided: Array = np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
    return divided


def weighted(columns: list[Array], weights: Array, seconds: Array) -> Array:
    """The coefficients, not negative, of columns (N,) each that come nearest to `seconds` (N, R)."""
    return not_negative(np.stack(columns, 1) * weights[:, None], seconds * weights[:, None])


def solve_amdahl(ranks: Array, weights: Array, seconds: Array) -> Array:
    serial, parallel = weighted([np.ones(len(ranks)), 1 / ranks], weights, seconds)
    return np.stack([serial + parallel, part_of(serial, serial + parallel)])


def amdahl(ranks: Array, parameters: Array) -> Array:
    alone, serial = parameters
    return alone * (serial + (1 - serial) / ranks[:, None])


def solve_gustafson(ranks: Array, weights: Array, seconds: Array) -> Array:
    """T(1) is linear and solved for each serial fraction; of those the best is refined by a parabola."""
    columns = (ranks[:, None] / (FRACTIONS + (1 - FRACTIONS) * ranks[:, None])) * weights[:, None]
    products, squares = columns.T @ (seconds * weights[:, None]), (columns**2).sum(axis=0)[:, None]
    gain = products**2 / squares
    best = gain.argmax(axis=0)
    inner = best.clip(1, len(FRACTIONS) - 2)
    left, middle, right = (np.take_along_axis(gain, inner[None] + step, 0)[0] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0)
    step = FRACTIONS[1]
    serial = np.where(best == inner, FRACTIONS[inner] + shift * step, FRACTIONS[best]).clip(0, 1)
    column = (ranks[:, None] / (serial + (1 - serial) * ranks[:, None])) * weights[:, None]
    alone = (column * seconds * weights[:, None]).sum(axis=0) / (column**2).sum(axis=0)
    return np.stack([alone, serial])


def gustafson(ranks: Array, parameters: Array) -> Array:
    alone, serial = parameters
    return alone * ranks[:, None] / (serial + (1 - serial) * ranks[:, None])


def solve_strong_scalability(ranks: Array, weights: Array, seconds: Array) -> Array:
    # T(n) = T(1) ((1 - sigma) / n + sigma + kappa (n - 1))
    parallel, shared, agreed = weighted([1 / ranks, np.ones(len(ranks)), ranks - 1.0], weights, seconds)
    alone = parallel + shared
    return np.stack([alone, part_of(shared, alone), part_of(agreed, alone)])


def strong_scalability(ranks: Array, parameters: Array) -> Array:
    return weak_scalability(ranks, parameters) / ranks[:, None]


def solve_weak_scalability(ranks: Array, weights: Array, seconds: Array) -> Array:
    columns = [np.ones(len(ranks)), ranks - 1.0, ranks * (ranks - 1.0)]
    alone, shared, agreed = weighted(columns, weights, seconds)
    return np.stack([alone, part_of(shared, alone), part_of(agreed, alone)])


def weak_scalability(ranks: Array, parameters: Array) -> Array:
    alone, contention, coherence = parameters
    others = ranks[:, None] - 1
    return alone * (1 + contention * others + coherence * ranks[:, None] * others)


ALONE = ("seconds_on_one_rank", "s")
SERIAL = (ALONE, ("serial_fraction", ""))
SHARED = (ALONE, ("contention", ""), ("coherence", ""))
USL = "the Universal Scalability Law"
LAWS: dict[str, tuple[Law, ...]] = {
    "strong": (
        Law("amdahl", "Amdahl's law", SERIAL, solve_amdahl, amdahl),
        Law("usl", USL, SHARED, solve_strong_scalability, strong_scalability),
    ),
    "weak": (
        Law("gustafson", "Gustafson's law", SERIAL, solve_gustafson, gustafson),
        Law("usl", USL, SHARED, solve_weak_scalability, weak_scalability),
    ),
}


def fit_law(law: Law, ranks: Array, seconds: Array, draws: int = DRAWS, seed: int = SEED) -> Fit:
    """`law` fitted to runs, with intervals by drawing the relative errors again.

    Args:
        ranks, seconds: (N,), rank count and seconds of each run.
        draws, seed: of the bootstrap.

    Returns:
        The fit; refused where the rank counts are fewer than the parameters and one.
    """
    ranks, seconds = np.asarray(ranks, float), np.asarray(seconds, float)
    count, distinct = len(law.parameters), np.unique(ranks)
    refused = too_few(law.name, count, len(distinct))
    if refused is not None:
        return Fit(model=law.model, refused=refused, observations=len(seconds))
    weights = 1 / usual(ranks, seconds)
    found = law.solve(ranks, weights, seconds[:, None])
    modelled = law.seconds(ranks, found)
    errors = errors_drawn((seconds - modelled[:, 0]) * weights, count, draws, seed)
    drawn = law.solve(ranks, weights, modelled + errors / weights[:, None])
    freedom = len(seconds) - count
    parameters = []
    for (name, unit), value, values in zip(law.parameters, found[:, 0].tolist(), drawn, strict=True):
        most = 1.0 if name.endswith("fraction") else math.inf
        low, high = interval_of_estimate(value, values, freedom, most)
        parameters.append(Parameter(name=name, unit=unit, value=value, low=low, high=high))
    shown = between([int(number) for number in distinct])
    curve = law.seconds(np.array(shown, float), found)[:, 0].tolist()
    return Fit(
        model=law.model,
        observations=len(seconds),
        parameters=parameters,
        curve=[CurvePoint(ranks=number, seconds=each) for number, each in zip(shown, curve, strict=True)],
        **goodness(ranks, seconds, modelled[:, 0], count),
    )
