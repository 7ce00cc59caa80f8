"""Fitted models in words: what each assumes, what its parameters are, and what a reader must not conclude."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dhhpc.scaling.bootstrap import FEWEST_RUNS
from dhhpc.scaling.fits.fitted import Fit, usual
from dhhpc.scaling.studies.fitting import shares_cores
from dhhpc.scaling.studies.preprocessing_results import PreprocessedPoint, PreprocessedRow
from dhhpc.scaling.studies.results import Point, Results, Row
from dhhpc.training.statistics import CONFIDENCE

Figure = Callable[[float, int], str]

NAMES = {
    "amdahl": "Amdahl's law",
    "gustafson": "Gustafson's law",
    "usl": "Universal Scalability Law",
    "mechanistic": "mechanistic model",
}
MEANINGS = {
    "amdahl": "A part of the work is serial, and the rest is shared by all ranks without loss.",
    "gustafson": "Work grows with the ranks, all but a serial part of it.",
    "usl": "Ranks wait for what they share (contention), and for each of them to agree with each other one "
    "(coherence).",
    "mechanistic": "The sum of computing, loading, averaging (a latency for each message and a time for each "
    "byte of an all-reduce), waiting for the slowest of ranks whose seconds vary, validation, checkpoints, "
    "start and end, each fitted to the seconds that the runs spent on it.",
}
PARAMETERS = {
    "seconds_on_one_rank": "totm on one rank",
    "serial_fraction": "serial fraction",
    "contention": "contention, sigma",
    "coherence": "coherence, kappa",
    "compute": "computing a sample",
    "data": "waiting for the data of a sample",
    "latency": "latency of a message, alpha",
    "seconds_per_byte": "time of a byte, beta",
    "memory_seconds_per_byte": "time of a byte in a node's memory",
    "jitter": "deviation of a batch's seconds, as a share of their mean",
    "validation": "validation on one rank",
    "checkpoint": "checkpoints",
    "once": "start and end",
}


def fit_caveats(results: Results, text: type[str], figure: Figure) -> list[str]:
    """What the reader of fits and intervals must keep in mind; arguments as in `wording`."""
    measured = [(point, point.totm) for point in results.points if point.totm is not None]
    sentences = caveats_of_fits(results.fits, measured, results.rows, results.study.repeats, text, figure)
    mechanistic = any(fit.model == "mechanistic" and fit.refused is None for fit in results.fits)
    if mechanistic and results.experiment["parallel"]["method"] == "gradient":
        sentences.append(
            text(
                "Gradients are sent while the backward pass goes on, and only what that does not hide is "
                "measured: latency and time of a byte are those that remain, not those of the network."
            )
        )
    return sentences


def caveats_of_fits(
    fits: Sequence[Fit],
    measured: Sequence[tuple[Point | PreprocessedPoint, float]],
    rows: Sequence[Row | PreprocessedRow],
    repeats: int,
    text: type[str],
    figure: Figure,
) -> list[str]:
    """The same for what any study fits to times.

    Args:
        measured: every run and its seconds.
        repeats: runs that were meant for each point.
        text, figure: as in `wording`.
    """
    if not rows:
        return []
    sentences: list[str] = []
    least = min(rows, key=lambda row: row.runs)
    if least.runs < FEWEST_RUNS:
        if repeats > 1 or any(fit.refused is None for fit in fits):
            sentences.append(
                text(
                    "With {} of a rank count there is no interval of its median; repeat it {} times or more."
                ).format(text("{} run" + "s" * (least.runs > 1)).format(figure(least.runs, 0)), FEWEST_RUNS)
            )
    elif least.confidence is not None and least.confidence < CONFIDENCE:
        sentences.append(
            text(
                "Intervals of the median of {} runs cannot reach beyond the fastest and the slowest, and "
                "hold the true one with a probability of {} at most, where 0.95 is meant; 6 runs suffice."
            ).format(figure(least.runs, 0), figure(least.confidence, 2))
        )
    fitted = [fit for fit in fits if fit.refused is None]
    if not fitted:
        return sentences
    own = [(point.ranks, seconds) for point, seconds in measured if not shares_cores(point)]
    sentences.append(
        text(
            "Fitted curves end at {} ranks, the most that were measured{}: beyond them a model is a guess, "
            "however well it fits."
        ).format(
            figure(max(ranks for ranks, _ in own), 0), " with cores of their own" * (len(own) < len(measured))
        )
    )
    misfits = [NAMES[fit.model] for fit in fitted if errs_beyond_chance(fit, own)]
    if misfits:
        sentences.append(
            text(
                "Errors of more than twice what runs on as many ranks differ by are no chance. So far off, "
                "and not to be relied on whatever the intervals say: {}."
            ).format(", ".join(misfits))
        )
    if any(is_at_zero(fit) for fit in fitted):
        sentences.append(
            text(
                "A parameter at zero could not be told from zero: what it stands for is too small to be seen "
                "in these runs, or the model is not theirs."
            )
        )
    return sentences


def is_at_zero(fit: Fit) -> bool:
    return any(parameter.value == 0 for parameter in fit.parameters)


def errs_beyond_chance(fit: Fit, measured: Sequence[tuple[int, float]]) -> bool:
    """Whether a model errs by more than twice what repeated runs differ by; False where none was repeated.

    Args:
        measured: ranks and seconds of the runs that it was fitted to.
    """
    ranks, times = zip(*measured, strict=True)
    repeated = len(times) - len(set(ranks))
    if not repeated or fit.relative_rmse is None:
        return False
    seconds = np.array(times)
    chance = float(((seconds / usual(np.array(ranks), seconds) - 1) ** 2).sum()) / repeated
    return fit.relative_rmse > 2 * math.sqrt(chance)


def preferred(fits: Sequence[Fit]) -> str | None:
    """The model of the least AICc; None unless there are several to choose from."""
    found = {fit.model: fit.aicc for fit in fits if fit.aicc is not None}
    return min(found, key=lambda model: found[model]) if len(found) > 1 else None
