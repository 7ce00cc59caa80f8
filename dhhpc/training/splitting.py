"""How much of every batch each rank takes, by what ranks were measured to manage.

The split of an epoch is a function of the records of the epochs before it, and at first of a calibration, so
all ranks find the same one. As times decide, two runs of the same experiment may differ.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.mpi import World
from dhhpc.training.periods import History

if TYPE_CHECKING:
    from dhhpc.data.loader import Loader
    from dhhpc.eddl import Model

# A split stays as long as no rank takes longer than the ideal split would by more than this.
TOLERANCE = 1.05
CALIBRATED_STEPS = 3


def calibrate(model: Model, loader: Loader, world: World) -> list[float]:
    """Samples a second of each rank: steps on nothing, taken back, all ranks at the same time, the fastest of
    several. The kernels must be there already."""
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
    return world.allgather_object(loader.batch_size / min(seconds))


def measured_weights(history: History, calibrated: list[float]) -> list[float]:
    """The weight of each rank in the next epoch's batches.

    Args:
        history: the records of the epochs before, each with `weights`, `rank_samples` and `ranks`, the
            seconds of each rank by kind.
        calibrated: the weights without a record of as many ranks.
    """
    if not history or len(history[-1].get("weights", [])) != len(calibrated):
        return calibrated
    last = history[-1]
    weights, samples = np.array(last["weights"]), np.array(last["rank_samples"], float)
    seconds = np.array([rank["data"] + rank["compute"] for rank in last["ranks"]])
    known = (samples > 0) & (seconds > 0)
    if not known.any():
        return calibrated
    speeds = np.divide(samples, seconds, out=np.zeros(len(weights)), where=known)
    # What took no sample has shown no speed: it keeps its weight among the others.
    speeds[~known] = weights[~known] * speeds[known].sum() / weights[known].sum()
    ideal = samples.sum() / speeds.sum()
    return list(map(float, speeds if seconds[known].max() > TOLERANCE * ideal else weights))
