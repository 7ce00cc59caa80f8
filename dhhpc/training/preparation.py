"""Before the first batch: everything that can be checked, and the compilation of the kernels."""

from __future__ import annotations

import time

import numpy as np

from dhhpc.data.loader import Loader
from dhhpc.data.shards import ShardSet
from dhhpc.eddl import Model
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.experiment import Experiment
from dhhpc.training.network import CreateNetwork, create_network


def check(experiment: Experiment, ranks: int, create: CreateNetwork) -> ShardSet:
    """Everything that can be checked before training; returns the shards.

    Raises:
        DhhpcError: shards are missing or damaged, the network does not fit them, there are fewer training
            samples than ranks, or the batch cannot be divided.
    """
    shards = experiment.data.open()
    count = shards.count("training") * (experiment.data.patch.per_image if experiment.data.patch else 1)
    if count < ranks:
        raise DhhpcError(
            f"{experiment.data.shards}: {count} training samples for {ranks} ranks; start at most {count} "
            f"ranks or preprocess more images"
        )
    batch_size = experiment.rank_batch_size(ranks)
    Loader(shards, "training", batch_size, 0, ranks, patch=experiment.data.patch)
    create_network(experiment, shards, create).build(
        experiment.optimizer.create(), [experiment.loss], experiment.metrics, seed=None
    )
    return shards


def warm_up(model: Model, loader: Loader, world: World) -> float:
    """Make one step and one prediction on nothing, and take them back; returns the seconds.

    The kernels are compiled here, outside of totm, and by rank 0 before the others, which then find them in
    the cache.
    """
    started = time.perf_counter()
    for turn in (True, False):
        if (world.rank == 0) is turn:
            before = model.state()
            images = np.zeros((loader.batch_size, *loader.sample_shape), np.float32)
            outputs = model.predict([images])
            model.train_batch([images], [np.zeros_like(output) for output in outputs])
            model.load_state(before)
        world.barrier()
    return time.perf_counter() - started
