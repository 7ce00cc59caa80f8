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

    Args:
        pause: seconds that training stands still for a checkpoint.
        write: seconds, from the end of the pause on, until it exists: a failure before that goes back to the
            checkpoint before it.
    """
    length = interval + pause
    if math.isinf(failures.mtbf):
        seconds = segments * length
        return Outcome(seconds, seconds, 0.0, 0.0)
    random = np.random.default_rng([seed, segments])
    done, held, count = np.zeros(draws, int), np.zeros(draws), np.zeros(draws)
    # Seconds of the current stretch after which the checkpoint at its beginning exists.
    safe_after = np.zeros(draws)
    restarting = np.zeros(draws, bool)
    running = np.arange(draws)
    while running.size:
        # Without memory, what is left until the next failure may be drawn anew at any time.
        until = random.exponential(failures.mtbf, running.size)
        wanted = np.where(restarting[running], failures.restart, 0.0) + length
        finished = until >= wanted
        held[running] += np.minimum(until, wanted)
        lucky, unlucky = running[finished], running[~finished]
        into = until[~finished] - np.where(restarting[unlucky], failures.restart, 0.0)
        lost = (into < safe_after[unlucky]) & (safe_after[unlucky] > 0)
        done[lucky] += 1
        safe_after[lucky], restarting[lucky] = write, False
        count[unlucky] += 1
        done[unlucky] -= lost
        safe_after[unlucky], restarting[unlucky] = 0.0, True
        running = running[done[running] < segments]
    total = held + count * failures.requeue
    return Outcome(
        float(total.mean()),
        float(held.mean()),
        float(count.mean()),
        float(total.std() / math.sqrt(draws)),
    )
