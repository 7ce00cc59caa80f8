"""Weighted means of vectors over the ranks. Knows arrays, not networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dhhpc.mpi.world import World

Array = np.ndarray[Any, Any]


def average(world: World, vectors: Iterable[Array], weight: float = 1.0, total: float | None = None) -> None:
    """Replace each float vector, in place, by its mean over the ranks weighted by every rank's `weight`.

    Args:
        world: the ranks; all of them call this with vectors of the same sizes.
        vectors: flat float32 arrays; empty ones cost no message.
        weight: this rank's share of the mean, for instance the samples it has seen since the last averaging.
        total: the sum of the weights if it is known, else it is reduced first.
    """
    if world.size == 1:
        return
    if total is None:
        weights = np.array([weight])
        world.allreduce_sum(weights)
        total = float(weights[0])
    for vector in vectors:
        if vector.size:
            world.allreduce_mean(vector, weight, total)
