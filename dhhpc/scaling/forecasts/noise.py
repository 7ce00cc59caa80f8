"""From run records to jitter: how the measured ranks differed, from each other and from step to step.

Ranks and epochs are told apart by their means. What steps do within an epoch a record does not hold; a
timeline does (`dhhpc train --trace`), and is drawn from where there is one. Else it is the deviation with
which simulated ranks would wait for each other as long as the measured ones did.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.scaling.forecasts.jitter import Jitter, residuals_of
from dhhpc.scaling.resources.calibration import MeasuredRun, median

Array = np.ndarray[Any, Any]

# With a fixed seed, so that the same records give the same jitter.
SEED, DRAWS, HALVINGS = 1, 2000, 40
WIDEST = 2.0
WHERE = re.compile(r"epoch (\d+), batch (\d+)")


def jitter_of(runs: Sequence[MeasuredRun]) -> tuple[Jitter, str]:
    """The jitter of runs that are alike in what a rank computes, and in words where it is from."""
    several = [run for run in runs if run.content["ranks"] > 1]
    residuals = [value for run in runs for value in traced_residuals(run.folder)]
    deviation, source = 0.0, ""
    if residuals:
        source = f"steps: drawn from {len(residuals)} of the timelines"
        deviation = float(np.std(residuals))
    elif several:
        deviation = median([step_deviation(run) for run in several])
        source = f"steps: deviation {deviation:.1%}, which makes ranks wait as long as they did"
    else:
        deviation = median([alone_deviation(run) for run in runs])
        source = (
            f"steps: deviation {deviation:.1%}, from how epochs of one rank differ, as if by chance alone"
        )
    rank, epoch = spreads(several, deviation)
    told = (
        f"ranks: {rank:.1%} for good and {epoch:.1%} an epoch" if several else "ranks: none, one was measured"
    )
    return Jitter(rank, epoch, 0.0 if residuals else deviation, tuple(residuals)), f"{source}; {told}"


def steps_of(run: MeasuredRun) -> Array:
    """Mean seconds of a step of each epoch and rank, (epochs, ranks); without the first epoch, if there are
    others."""
    history = run.content["history"]
    return np.array(
        [
            [(rank["data"] + rank["compute"]) / epoch["batches"] for rank in epoch["ranks"]]
            for epoch in history[1:] or history
        ]
    )


def spreads(runs: Sequence[MeasuredRun], step: float) -> tuple[float, float]:
    """Deviations between ranks, and of a rank's epochs, of the logarithm of its pace; without what chance
    does to means of steps that deviate by `step`."""
    between, within, degrees, rank_degrees, noise, epochs = 0.0, 0.0, 0, 0, 0.0, 1
    for run in runs:
        logs = np.log(np.maximum(steps_of(run), 1e-12))
        centred = logs - logs.mean(axis=1, keepdims=True)  # all ranks may have a slow epoch together
        of_ranks = centred.mean(axis=0)
        between += float((of_ranks**2).sum())
        within += float(((centred - of_ranks) ** 2).sum())
        degrees += (logs.shape[0] - 1) * (logs.shape[1] - 1)
        rank_degrees += logs.shape[1] - 1
        noise += step**2 / run.content["history"][-1]["batches"] * (logs.shape[1] - 1)
        epochs = max(epochs, logs.shape[0])
    if not rank_degrees:
        return 0.0, 0.0
    of_epochs = within / degrees if degrees else 0.0
    epoch = max(0.0, of_epochs - noise / rank_degrees)
    rank = max(0.0, between / rank_degrees - of_epochs / epochs)
    return math.sqrt(rank), math.sqrt(epoch)


def alone_deviation(run: MeasuredRun) -> float:
    """Of a step, where the means of a rank's epochs differ because steps do."""
    means = steps_of(run)[:, 0]
    batches = run.content["history"][-1]["batches"]
    return float(means.std(ddof=1) / means.mean() * math.sqrt(batches)) if len(means) > 1 else 0.0


def step_deviation(run: MeasuredRun) -> float:
    """Of a step, such that ranks with the measured means wait for each other as long as measured."""
    history = run.content["history"]
    history = history[1:] or history
    random = np.random.default_rng(SEED)
    wanted, means, lengths = [], [], []
    for epoch, steps in zip(history, steps_of(run), strict=True):
        meetings = max(1, epoch["averagings"])
        wanted.append(float(np.mean([rank["wait"] for rank in epoch["ranks"]])) / meetings)
        means.append(steps)
        lengths.append(epoch["batches"] / meetings)
    draws = random.standard_normal((DRAWS, run.content["ranks"]))

    def waits(deviation: float) -> float:
        found = []
        for steps, length in zip(means, lengths, strict=True):
            arrives = length * steps + deviation * steps * math.sqrt(length) * draws
            found.append(float(arrives.max(axis=1).mean() - arrives.mean()))
        return float(np.mean(found))

    low, high = 0.0, WIDEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if waits(middle) < np.mean(wanted) else (low, middle)
    return low if low > 1e-6 else 0.0


def traced_residuals(folder: Path) -> list[float]:
    """Seconds of the whole batches in a run's timelines, without its first epoch, divided by the mean of
    their rank and epoch; empty where there are none."""
    found: list[float] = []
    for path in sorted(folder.glob("trace*/rank-*.json")):
        for steps in traced_steps(path).values():
            if len(steps) > 2:
                # The last one may be smaller.
                found += residuals_of(steps[:-1])
    return found


def traced_steps(path: Path) -> dict[int, list[float]]:
    """By epoch, from the second on, the seconds of work of the batches in a timeline."""
    events = [event for event in spans_in(path) if event["tid"] == 1]
    work = [event for event in events if event["cat"] in ("data", "compute")]
    sent = [event for event in events if event["cat"] in ("communication", "wait")]
    steps: dict[int, list[float]] = defaultdict(list)
    for event in events:
        where = WHERE.fullmatch(event["name"])
        if where is None or event["cat"] != "section" or int(where[1]) == 1:
            continue
        spent = 0.0
        for span in inside(work, event):
            # Collectives inside of a span of work are none of it.
            spent += span["dur"] - sum(each["dur"] for each in inside(sent, span))
        steps[int(where[1])].append(spent / 1e6)
    return steps


def spans_in(path: Path) -> list[dict[str, Any]]:
    """The spans of a timeline by the time they began; that of a killed run ends without a bracket."""
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [line.strip(" ,[]") for line in lines]
    events = [json.loads(text) for text in texts if text.startswith("{")]
    return sorted((event for event in events if event["ph"] == "X"), key=lambda event: float(event["ts"]))


def inside(spans: Sequence[dict[str, Any]], outer: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Those of sorted spans that began inside of another one."""
    first = bisect_left(spans, outer["ts"], key=lambda span: span["ts"])
    last = bisect_left(spans, outer["ts"] + outer["dur"], key=lambda span: span["ts"])
    return spans[first:last]
