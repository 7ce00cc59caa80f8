"""How much of every batch each rank takes, by what ranks were measured to manage.

The split of an epoch is a function of the records of the epochs before it, and at first of a calibration, so
all ranks find the same one. As times decide, two runs of the same experiment may differ.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.mpi import World
from dhhpc.training.periods import History

if TYPE_CHECKING:
    from dhhpc.data.loader import Loader
    from dhhpc.eddl import Model

# A split stays as long as no rank takes longer than the ideal split would by more than this.
TOLERANCE = 1.1
# Speeds are medians over so many epochs: one that something disturbed does not count.
EPOCHS = 3
CALIBRATED_STEPS = 5


class Pace:
    """What a rank takes for a sample, in the median of an epoch's batches: the first one of a new size takes
    longer, as its plan is made."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.samples = 0
        self.total = 0.0

    def add(self, samples: int, total: float) -> None:
        """A batch of so many samples; total: the seconds that this rank has worked by now."""
        if samples:
            self.seconds.append((total - self.total) / samples)
        self.samples += samples
        self.total = total

    def finish(self) -> dict[str, float | None]:
        """The epoch's samples and seconds for a sample (None without any); begins the next epoch."""
        seconds = statistics.median(self.seconds) if self.seconds else None
        found = {"samples": self.samples, "seconds": seconds}
        self.seconds, self.samples = [], 0
        return found


def calibrate(model: Model, loader: Loader, world: World) -> list[float]:
    """Samples a second of each rank: steps on nothing, taken back, all ranks at the same time, the median of
    several. The kernels must be there already. (The fastest would tell which ranks had a core to themselves
    for a moment, where ranks share cores.)"""
    before = model.state()
    images = np.zeros((loader.batch_size, *loader.sample_shape), np.float32)
    targets = [np.zeros_like(output) for output in model.predict([images])]
    seconds = []
    with model.sum_over_ranks.alone():
        for _ in range(CALIBRATED_STEPS):
            world.barrier()
            started = time.perf_counter()
            model.train_batch([images], targets)
            seconds.append(time.perf_counter() - started)
    model.load_state(before)
    return world.allgather_object(loader.batch_size / statistics.median(seconds))


def measured_weights(history: History, calibrated: list[float]) -> list[float]:
    """The weight of each rank in the next epoch's batches.

    Args:
        history: the records of the epochs before, each with `weights` and `paces`, a `Pace` of each rank.
        calibrated: the weights without a record of as many ranks.
    """
    ranks = len(calibrated)
    records = [record for record in history[-EPOCHS:] if len(record.get("weights", [])) == ranks]
    if not records:
        return calibrated
    weights = np.array(records[-1]["weights"])
    paces = [[pace["seconds"] or np.nan for pace in record["paces"]] for record in records]
    known = ~np.isnan(paces).all(axis=0)
    if not known.any():
        return list(map(float, weights))
    speeds = weights.copy()
    speeds[known] = 1 / np.nanmedian(np.array(paces)[:, known], axis=0)
    # What took no sample has shown no speed: it keeps its weight among the others.
    speeds[~known] *= speeds[known].sum() / weights[known].sum()
    ideal = weights.sum() / speeds.sum()
    return list(map(float, speeds if (weights / speeds).max() > TOLERANCE * ideal else weights))
