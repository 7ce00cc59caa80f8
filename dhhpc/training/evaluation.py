"""Metrics of a network over a whole split, on all ranks."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from dhhpc.data.loader import Loader
from dhhpc.data.shards import ShardSet
from dhhpc.data.targets import foreground_classes
from dhhpc.eddl import NotFiniteError
from dhhpc.eddl.finiteness import not_finite_loss
from dhhpc.eddl.graph import Array
from dhhpc.mpi import World
from dhhpc.training.divergence import image
from dhhpc.training.metrics import ClassificationCounts, Counts, SegmentationCounts
from dhhpc.training.network import (
    Ensemble,
    Predictor,
    TogetherPredicting,
    predict_any_size,
    reflected,
)

# Pixels of a batch's images: enough to keep the kernels busy, little enough for any memory.
BATCH_PIXELS = 2**18


def evaluate(
    model: Predictor, shards: ShardSet, split: str, world: World, spatial: bool = False
) -> dict[str, Any]:
    """Evaluate whole images of `split`, each on one rank; inside their regions where the shards hold regions.

    Args:
        model: built, with its loss if the loss is wanted.
        shards: of the task the model was made for.
        split: "training", "validation" or "test".
        world: every rank calls this; all get the result.
        spatial: each image on all ranks together instead, which hold some of its rows each.

    Returns:
        samples; loss (mean over samples, regions or not) if the model has one; and the metrics of
        `SegmentationCounts.results` or `ClassificationCounts.results`.

    Raises:
        DhhpcError: the split is empty or a shard is damaged.
        NotFiniteError: the loss is NaN or infinite; the same on every rank.
    """
    counts = counts_for(shards)
    dealt = (0, 1) if spatial else (world.rank, world.size)
    loader = Loader(shards, split, batch_of(shards), *dealt, shuffle=False)
    predict = TogetherPredicting(model, world) if spatial else partial(predict_any_size, model)
    loss = np.zeros(2)
    trouble: NotFiniteError | None = None
    for number, batch in enumerate(loader.epoch(0), start=1):
        world.progress.at(f"{split}, batch {number}")
        if not len(batch.indices):
            continue
        predictions = predict(batch.images)
        if spatial and world.rank > 0:
            continue  # all ranks hold the same, of which rank 0 tells
        counts.add(predictions, batch.targets, batch.regions)
        value = sum(part.value(model.kernels, predictions, batch.targets) for part in model.losses)
        if not math.isfinite(value) and trouble is None:
            error = (
                NotFiniteError(f"the loss is {value}", phase="loss")
                if spatial
                else no_number(model, batch.images, batch.targets, value)
            )
            trouble = error.told(f"{split}: {error}{image(error, batch, loader)}")
        loss += [value * len(batch.indices), len(batch.indices)]
    counts.reduce(world)
    world.allreduce_sum(loss)
    if not math.isfinite(loss[0]):
        raise next(error for error in world.allgather_object(trouble) if error)
    results: dict[str, Any] = {"samples": int(loss[1])}
    if model.losses:
        results["loss"] = float(loss[0] / loss[1])
    return results | counts.results()


def batch_of(shards: ShardSet) -> int:
    """How many whole images a rank evaluates at once."""
    return max(1, min(16, BATCH_PIXELS // math.prod(shards.sample_shape[1:])))


def no_number(model: Predictor, images: Array, targets: Array, loss: float) -> NotFiniteError:
    """The error for a loss that is NaN or infinite."""
    inputs = [reflected(model, images)]
    if isinstance(model, Ensemble):
        model = model.to_blame(inputs)
    return not_finite_loss(model, model.plan(inputs, training=False), inputs, [targets], loss)


def counts_for(shards: ShardSet) -> Counts:
    """Empty counts for the task of `shards`."""
    if shards.task == "segmentation":
        return SegmentationCounts(foreground_classes(shards.classes))
    return ClassificationCounts(shards.classes)
