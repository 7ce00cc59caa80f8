"""Before the first batch: everything that can be checked, and the compilation of the kernels."""

from __future__ import annotations

import time

import numpy as np

from dhhpc.data.loader import Loader
from dhhpc.data.shards import ShardSet
from dhhpc.data.staged_copy import Staged
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.averaging import Averaging
from dhhpc.training.experiment import Experiment
from dhhpc.training.network import CreateNetwork, create_network


def check(
    experiment: Experiment, ranks: int, create: CreateNetwork, staged: Staged | None = None
) -> ShardSet:
    """Everything that can be checked before training; returns the shards, or their copy on this node.

    Raises:
        DhhpcError: shards are missing or damaged, the network does not fit them or the method, there are
            fewer training samples than ranks, or the batch cannot be divided.
    """
    shards = experiment.data.open(staged)
    count = shards.count("training") * (experiment.data.patch.per_image if experiment.data.patch else 1)
    dealt = experiment.parallel.dealt(ranks)
    if count < dealt:
        raise DhhpcError(
            f"{experiment.data.shards}: {count} training samples for {ranks} ranks; start at most {count} "
            f"ranks or preprocess more images"
        )
    batch_size = experiment.rank_batch_size(ranks)
    Loader(shards, "training", batch_size, 0, dealt, patch=experiment.data.patch)
    network = create_network(experiment, shards, create)
    network.build(
        experiment.optimizer.create(),
        [experiment.loss],
        experiment.metrics,
        seed=None,
        memory=experiment.memory,
    )
    experiment.parallel.check(network, ranks)
    return shards


def training_loader(experiment: Experiment, shards: ShardSet, world: World) -> Loader:
    """The loader of this rank's part of the training split."""
    dealt = experiment.parallel.dealt(world.size)
    return Loader(
        shards,
        "training",
        experiment.rank_batch_size(world.size),
        world.rank % dealt,
        dealt,
        experiment.seed,
        experiment.data.patch,
        experiment.augmentations,
        threads=experiment.data.threads,
    )


def warm_up(method: Averaging, loader: Loader, world: World) -> float:
    """Make one step and one prediction on nothing, and take them back; returns the seconds.

    The kernels are compiled here, outside of totm, and by rank 0 before the others, which then find them in
    the cache; or by all where they cannot compute alone.
    """
    started = time.perf_counter()
    world.progress.at("the compilation of kernels")
    network = method.network
    for turn in [True] if method.cuts_images else [world.rank == 0, world.rank > 0]:
        if turn:
            before = network.state()
            images = method.share_of(np.zeros((loader.batch_size, *loader.sample_shape), np.float32))
            outputs = network.predict([images])
            with network.sum_over_ranks.alone():
                network.train_batch([images], [np.zeros_like(output) for output in outputs])
            network.load_state(before)
        world.barrier()
    return time.perf_counter() - started
