"""Failures of nodes, and how often to write checkpoints against them.

Formulas: Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
Generation Computer Systems 22(3), 2006. Failures come as a Poisson process; one that comes while a run starts
again has it start once more. Nothing fails while a job waits in the queue, since it has no nodes then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Runs that are drawn where a mean is wanted.
DRAWS = 2000
# Failures that each of them shall have.
ENOUGH = 4.0


@dataclass(frozen=True)
class Failures:
    """What may happen to a run, in seconds.

    Attributes:
        mtbf: the mean time between failures of any of its nodes; infinite for none.
        restart: from the job's start to where training goes on.
        requeue: waiting for that start.
    """

    mtbf: float
    restart: float = 0.0
    requeue: float = 0.0


def daly_interval(pause: float, mtbf: float) -> float:
    """Seconds of training between two checkpoints that stop it for `pause` seconds each, for the least time
    in all: Daly's higher-order estimate; `mtbf` where failures come between checkpoints so long."""
    if math.isinf(mtbf):
        return math.inf
    if pause >= 2 * mtbf:
        return mtbf
    share = pause / (2 * mtbf)
    return math.sqrt(2 * pause * mtbf) * (1 + math.sqrt(share) / 3 + share / 9) - pause


def expected_seconds(work: float, interval: float, pause: float, failures: Failures) -> float:
    """The mean seconds of a run of `work` seconds that stops for `pause` after each `interval` of them, the
    waits for starting again included: Daly's complete cost function, which is exact for such failures. Each
    costs a wait in the queue on top, and they come once in `mtbf` of the time in which there are nodes."""
    segments = work / interval
    if math.isinf(failures.mtbf):
        return work + segments * pause
    mtbf = failures.mtbf
    exponent = (interval + pause) / mtbf
    if exponent > 500:
        return math.inf
    held = segments * mtbf * math.exp(failures.restart / mtbf) * math.expm1(exponent)
    return held * (1 + failures.requeue / mtbf)


@dataclass(frozen=True)
class Outcome:
    """Means over drawn runs: seconds in all, seconds with nodes, and failures; and the deviation of the first
    mean."""

    seconds: float
    held: float
    failures: float
    error: float


def simulate_failures(
    segments: int,
    interval: float,
    pause: float,
    write: float,
    failures: Failures,
    seed: int,
    draws: int = DRAWS,
) -> Outcome:
    """Draw runs of `segments` stretches of `interval` seconds with a checkpoint after each.

    Where failures are rare, runs are drawn many times as long, and what they cost is divided: what one costs
    does not depend on the length.

    Args:
        pause: seconds that training stands still for a checkpoint.
        write: seconds, from the end of the pause on, until it exists, at most a stretch: a failure before
            that goes back to the checkpoint before it.
    """
    length = interval + pause
    if math.isinf(failures.mtbf):
        seconds = segments * length
        return Outcome(seconds, seconds, 0.0, 0.0)
    longer = max(1, math.ceil(ENOUGH * failures.mtbf / (segments * length)))
    random = np.random.default_rng(seed)
    left, held, count = np.full(draws, segments * longer), np.zeros(draws), np.zeros(draws)
    running, restart = np.arange(draws), 0.0
    while running.size:
        # Without memory, what is left until the next failure may be drawn anew at any time.
        until = random.exponential(failures.mtbf, running.size)
        wanted = restart + left[running] * length
        held[running] += np.minimum(until, wanted)
        running, until = running[until < wanted], until[until < wanted]
        count[running] += 1
        done, into = np.divmod(np.maximum(0.0, until - restart), length)
        # The last checkpoint may be on its way yet; the one from which the run started again is there.
        done -= (done > 0) & (into < write)
        left[running] -= done.astype(left.dtype)
        restart = failures.restart
    total = held + count * failures.requeue
    return Outcome(
        float(total.mean()) / longer,
        float(held.mean()) / longer,
        float(count.mean()) / longer,
        float(total.std() / math.sqrt(draws)) / longer,
    )
