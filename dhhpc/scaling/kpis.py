"""The key performance indicators of the DeepHealth use cases, from measured seconds.

totm and toppi are defined in section 12.4 of the DeepHealth project's use case chapter; speed-up and
efficiency are Amdahl's (strong scaling, fixed work; AFIPS 1967) and Gustafson's (weak scaling, work growing
with the ranks; CACM 31(5), 1988).
"""

from __future__ import annotations


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
