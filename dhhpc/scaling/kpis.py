"""The key performance indicators of the DeepHealth use cases, from measured seconds.

totm, toppi and ttmip are defined in section 12.4 of the DeepHealth project's use case chapter; speed-up and
efficiency are Amdahl's (strong scaling, fixed work; AFIPS 1967) and Gustafson's (weak scaling, work growing
with the ranks; CACM 31(5), 1988).
"""

from __future__ import annotations

from collections.abc import Sequence


def time_of_preprocessing(design_seconds: float | None, run_seconds: float | None) -> float | None:
    """toppi = T1 + T2, in seconds; None if either part is unknown.

    Args:
        design_seconds: T1, the time a person needed to design and write the pipeline.
        run_seconds: T2, the time to run it over all images of the dataset.
    """
    if design_seconds is None or run_seconds is None:
        return None
    return design_seconds + run_seconds


def speed_up(base_ranks: int, base_seconds: float, ranks: int, seconds: float, mode: str) -> float:
    """How many times faster `ranks` ranks work than one.

    Strong scaling: S(n) = T(1) / T(n). Weak scaling, where the work grows n times: S(n) = n T(1) / T(n).
    For a base b other than one rank, b is taken to be perfectly efficient: S(n) = b T(b) / T(n), or
    n T(b) / T(n).

    Args:
        base_ranks, base_seconds: b and T(b), totm on the fewest ranks measured.
        ranks, seconds: n and T(n), totm on n ranks.
        mode: "strong" or "weak".
    """
    return (base_ranks if mode == "strong" else ranks) * base_seconds / seconds


def efficiency(speed_up: float, ranks: int) -> float:
    """E(n) = S(n) / n: 1 when no rank's time is lost."""
    return speed_up / ranks


def samples_per_second(samples: int, seconds: float) -> float:
    """Training samples seen by all ranks together per second of totm."""
    return samples / seconds


def core_seconds(seconds: float, ranks: int, threads: int) -> float:
    """What a run costs: totm times the cores it holds, one for each thread of each rank."""
    return seconds * ranks * threads


def karp_flatt(speed_up: float, ranks: int) -> float:
    """The experimentally determined serial fraction e = (1/S - 1/n) / (1 - 1/n) of a strong speed-up S on
    n > 1 ranks over one (Karp and Flatt, CACM 33(5), 1990).

    By Amdahl's law it is the same on all n: where it grows with n, more is lost than serial work, and below
    zero the speed-up is more than n.
    """
    return (1 / speed_up - 1 / ranks) / (1 - 1 / ranks)


def time_to_model(preprocessing: Sequence[float], training: Sequence[float]) -> float:
    """ttmip in seconds: the toppi of every pipeline and the totm of every model that was tried."""
    return sum(preprocessing) + sum(training)


def core_hours(core_seconds: float) -> float:
    return core_seconds / 3600


def cost(core_seconds: float, price: float) -> float:
    """What a run costs at `price` a core-hour, in the price's currency."""
    return core_hours(core_seconds) * price
