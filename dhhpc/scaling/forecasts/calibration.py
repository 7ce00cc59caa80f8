"""From run records to the pace of a rank, told apart from what is modelled."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.jitter import Jitter
from dhhpc.scaling.forecasts.network import Machine
from dhhpc.scaling.forecasts.noise import jitter_of
from dhhpc.scaling.forecasts.plan import FLOAT, MEETING_BYTES, Network
from dhhpc.scaling.forecasts.simulation import Pace
from dhhpc.scaling.resources.calibration import FREE_KEYS, MeasuredRun, beside_batches, median, read_measured
from dhhpc.training.experiment import Experiment, differences
from dhhpc.training.parallel import Gradient, Periodic

# Whatever ranks do when they meet, a rank's steps are the same.
ALSO_FREE = ("parallel", "data.threads")


@dataclass(frozen=True)
class Calibration:
    """What runs measured.

    Attributes:
        experiment: of the first run.
        samples, images: of the training and the validation split.
        threads: of each rank.
        pace: of a rank; `pace.sample` where all cores of a node are busy, as far as that was measured.
        samples_seconds: seconds of a sample by the share of a node's cores that are busy.
        once: seconds of a run beside its epochs.
        runs: the folders of those that have a part in the numbers.
        measured, left_out: lines on what the numbers are from, and why some runs have no part in them.
    """

    experiment: Experiment
    network: Network
    samples: int
    images: int
    threads: int
    pace: Pace
    samples_seconds: dict[float, float]
    jitter: Jitter
    once: float
    runs: tuple[Path, ...]
    measured: tuple[str, ...]
    left_out: tuple[str, ...]

    def pace_on(self, machine: Machine, ranks: int) -> Pace:
        """The pace of each of so many ranks on a machine.

        Between measured shares of busy cores it is interpolated, beyond them that of the nearest; threads
        that are more than a node's cores share them.
        """
        shares = sorted(self.samples_seconds)
        sample = float(
            np.interp(machine.busy(ranks), shares, [self.samples_seconds[each] for each in shares])
        )
        slower = machine.oversubscription(ranks) / machine.relative_speed
        pace = self.pace
        return replace(
            pace,
            sample=sample * slower,
            step=pace.step * slower,
            other=pace.other * slower,
            image=pace.image * slower,
            epoch=pace.epoch * slower,
        )


def calibrate(folders: Sequence[Path], cores: int | None = None, threads: int | None = None) -> Calibration:
    """What the runs in these folders measured of a rank.

    Args:
        cores: of the node (or the ranks' part of it) on which they ran, where records do not tell.
        threads: runs with other numbers of threads a rank are left out; by default than most have.

    Raises:
        DhhpcError: a run is of other work than the first, or none measures a rank that has its cores to
            itself.
    """
    runs = [read_measured(folder, folder.name) for folder in folders]
    check_same_work(runs)
    counts = Counter(run.content["threads"] for run in runs)
    chosen = threads or max(counts, key=lambda count: (counts[count], count))
    left_out, kept = [], []
    for run in runs:
        held = cores_of(run, cores)
        if run.content["threads"] != chosen:
            left_out.append(
                f"{run.folder}: {run.content['threads']} threads a rank where {chosen} are calibrated"
            )
        elif threads_on_node(run) > held:
            left_out.append(f"{run.folder}: {threads_on_node(run)} threads share {held} cores of a node")
        else:
            kept.append(run)
    if not kept:
        raise DhhpcError(
            f"{left_out[0]}: no run measures ranks of {chosen} threads that have their cores to themselves; "
            f"train one with `--threads {chosen}` on fewer ranks"
        )
    content = kept[0].content
    experiment = Experiment.model_validate(content["experiment"])
    levels = levels_of(kept, cores)
    step, samples_seconds = samples_seconds_of(levels)
    jitter, told = jitter_of(kept)
    patch = experiment.data.patch
    constant, other = line([batches_of(run) for run in kept], [beside_of(run) for run in kept])
    pace = Pace(
        sample=samples_seconds[max(samples_seconds)],
        step=step,
        data=data_share(kept),
        other=other,
        image=median([image_seconds(run) for run in kept]),
        epoch=constant,
        checkpoint=median([checkpoint_seconds(run) for run in kept]),
    )
    lines = [f"{run.folder}: {told_of(run)}" for run in kept]
    busy = ", ".join(
        f"{1e3 * seconds:.3g} ms at {share:.0%}" for share, seconds in sorted(samples_seconds.items())
    )
    lines.append(f"a rank of {chosen} threads: a sample takes {busy} of a node's cores busy")
    lines.append(f"a step takes {1e3 * (step + other):.3g} ms beside its samples")
    lines.append(f"jitter of {told}")
    return Calibration(
        experiment=experiment,
        network=network_of(kept, experiment),
        samples=content["samples"]["training"] * (patch.per_image if patch else 1),
        images=content["samples"].get("validation", 0),
        threads=chosen,
        pace=pace,
        samples_seconds=samples_seconds,
        jitter=jitter,
        once=median([run.once_seconds for run in kept]),
        runs=tuple(run.folder for run in kept),
        measured=tuple(lines),
        left_out=tuple(left_out),
    )


def check_same_work(runs: Sequence[MeasuredRun]) -> None:
    """Refuse runs of other networks or samples than the first.

    Raises:
        DhhpcError: names the run and what differs.
    """
    first = runs[0].content
    for run in runs[1:]:
        what = other_work(first, run.content)
        if what is not None:
            raise DhhpcError(
                f"{run.folder}: was trained with another {what} than {runs[0].folder}; calibrate on runs of "
                f"one network and data set"
            )


def other_work(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """In what the ranks of two run records did other work; None if in nothing."""
    for key in differences(one["experiment"], other["experiment"]):
        if not any(key == free or key.startswith(f"{free}.") for free in (*FREE_KEYS, *ALSO_FREE)):
            return key
    return None if one["samples"] == other["samples"] else "number of samples"


def cores_of(run: MeasuredRun, stated: int | None) -> int:
    """The cores that all ranks of a node of the run could use.

    Raises:
        DhhpcError: neither record nor option tells, and it ran elsewhere.
    """
    if stated is not None:
        return stated
    recorded = run.content.get("cores")
    if recorded:
        return int(recorded)
    if run.content["hosts"] == [socket.gethostname()]:
        return len(os.sched_getaffinity(0))
    raise DhhpcError(
        f"{run.folder}: ran on {', '.join(run.content['hosts'])}, and its record does not tell how many "
        f"cores a node had; give --cores"
    )


def threads_on_node(run: MeasuredRun) -> int:
    """Threads of all ranks on the fullest node."""
    hosts = Counter(process.rpartition(":")[0] for process in run.content["processes"])
    return max(hosts.values()) * int(run.content["threads"])


def history_of(run: MeasuredRun) -> list[dict[str, Any]]:
    """The epochs but for the first, which is not like others."""
    history: list[dict[str, Any]] = run.content["history"]
    return history[1:] or history


def told_of(run: MeasuredRun) -> str:
    method = run.content["experiment"]["parallel"]["method"]
    ranks, epochs = run.content["ranks"], len(history_of(run))
    plural = "s" if ranks > 1 else ""
    return f"{ranks} rank{plural}, {method}; {epochs} epoch{'s' if epochs > 1 else ''} counted"


def batches_of(run: MeasuredRun) -> float:
    return float(history_of(run)[-1]["batches"])


def levels_of(runs: Sequence[MeasuredRun], cores: int | None) -> dict[float, list[tuple[float, float]]]:
    """By the share of busy cores: (samples of a step, seconds of a step), means over epochs and ranks."""
    levels: dict[float, list[tuple[float, float]]] = {}
    for run in runs:
        share = min(1.0, threads_on_node(run) / cores_of(run, cores))
        for epoch in history_of(run):
            steps = epoch["batches"] * len(epoch["ranks"])
            samples = sum(pace["samples"] for pace in epoch["paces"])
            seconds = sum(rank["data"] + rank["compute"] for rank in epoch["ranks"])
            levels.setdefault(share, []).append((samples / steps, seconds / steps))
    return levels


def samples_seconds_of(levels: dict[float, list[tuple[float, float]]]) -> tuple[float, dict[float, float]]:
    """Seconds of a step beside its samples, and of a sample by the share of busy cores."""
    constants = []
    for points in levels.values():
        across, up = zip(*points, strict=True)
        if max(across) > 1.5 * min(across):
            constants.append(line(across, up)[0])
    step = median(constants) if constants else 0.0
    return step, {
        share: median([max(0.0, seconds - step) / samples for samples, seconds in points])
        for share, points in levels.items()
    }


def line(across: Sequence[float], up: Sequence[float]) -> tuple[float, float]:
    """Constant and slope of least squares, neither below 0; the slope alone where all is at one place."""
    x, y = np.asarray(across, float), np.asarray(up, float)
    through_zero = float((x * y).sum() / (x * x).sum())
    if x.max() <= 1.5 * x.min():
        return 0.0, max(0.0, through_zero)
    slope, constant = map(float, np.polyfit(x, y, 1))
    if slope < 0:
        return float(y.mean()), 0.0
    return (constant, slope) if constant >= 0 else (0.0, through_zero)


def beside_of(run: MeasuredRun) -> float:
    """Of an epoch, what is no work on batches, no meeting and no checkpoint."""
    return median([beside_batches(epoch) - epoch.get("checkpoint_seconds", 0.0) for epoch in history_of(run)])


def data_share(runs: Sequence[MeasuredRun]) -> float:
    ranks = [rank for run in runs for epoch in history_of(run) for rank in epoch["ranks"]]
    data = sum(rank["data"] for rank in ranks)
    return float(data / max(1e-12, data + sum(rank["compute"] for rank in ranks)))


def image_seconds(run: MeasuredRun) -> float:
    """Of an image of the validation split, by the rank that has the most."""
    images = -(-run.content["samples"].get("validation", 0) // run.content["ranks"])
    if not images:
        return 0.0
    return median([epoch.get("validation_seconds", 0.0) for epoch in history_of(run)]) / images


def checkpoint_seconds(run: MeasuredRun) -> float:
    """How long a checkpoint in the background stopped training; the last epoch's waits for the disk, too."""
    if not Experiment.model_validate(run.content["experiment"]).checkpoint.asynchronous:
        return 0.0
    seconds = [epoch["checkpoint_seconds"] for epoch in history_of(run)[:-1] if "checkpoint_seconds" in epoch]
    return median(seconds) if seconds else 0.0


def network_of(runs: Sequence[MeasuredRun], experiment: Experiment) -> Network:
    """The numbers that are sent: parameters, and from the bytes of a record statistics too."""
    parameters = int(runs[0].content["parameters"])
    moments = experiment.optimizer.create().moments
    found = [0]
    for run in runs:
        method = Experiment.model_validate(run.content["experiment"]).parallel
        plain = method.compression is None and method.hierarchy == "flat"
        if run.content["ranks"] == 1 or not plain or not isinstance(method, Gradient | Periodic):
            continue
        epoch = history_of(run)[-1]
        state = isinstance(method, Periodic) and method.optimizer_state == "average"
        numbers = parameters * (1 + moments * state)
        sent = epoch["bytes_sent"] - MEETING_BYTES * epoch["batches"]
        left = round(sent / max(1, epoch["averagings"]) / FLOAT) - numbers
        # The few numbers of an epoch's end are none.
        found.append(left if left > MEETING_BYTES else 0)
    return Network(parameters, max(found), moments)
