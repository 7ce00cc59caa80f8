"""Averaging often with the ranks nearby, and rarely with all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dhhpc.mpi import Levels, World, average
from dhhpc.training.averaging import PeriodicAveraging
from dhhpc.training.combinations import Array, Combination
from dhhpc.training.meeting import Meeting
from dhhpc.training.periods import Fixed

if TYPE_CHECKING:
    from dhhpc.eddl import Model

NEAR_COUNTERS = "averaging/near counters"


class TwoLevelAveraging(PeriodicAveraging):
    """Every `near_period` batches the ranks of a group (a node) average, every `period` batches all do: the
    groups among themselves first, then their first ranks, weighted by the groups' samples, which pass the
    mean on. So one rank of a node talks to other nodes. A signal to stop is heard when all average.

    Hierarchical local SGD (Lin et al., 2020, "Don't use large mini-batches, use local SGD", section 5).
    """

    def __init__(
        self,
        world: World,
        model: Model,
        meeting: Meeting,
        levels: Levels,
        near_period: int,
        period: int,
        averages_optimizer: bool,
    ) -> None:
        super().__init__(world, model, meeting, Fixed(period), Combination(model), averages_optimizer)
        self.levels, self.near_period = levels, near_period
        meeting.asks = False
        self.near_batches = self.near_samples = 0

    def begin(self) -> None:
        super().begin()
        self.near_batches = self.near_samples = 0

    def after_batch(self, samples: int, global_samples: int) -> bool:
        self.near_batches += 1
        self.near_samples += samples
        met = super().after_batch(samples, global_samples)
        if self.near_batches >= self.near_period:
            self.average_group()
        return met

    def average_group(self) -> None:
        average(self.levels.group, self._vectors(), self.near_samples)
        self.near_batches = self.near_samples = 0

    def average_all(self) -> None:
        self.average_group()
        group, leaders = self.levels.group, self.levels.leaders
        samples = np.array([self.samples])
        group.allreduce_sum(samples)
        if leaders is not None:
            average(leaders, self._vectors(), float(samples[0]), self.global_samples)
        for vector in self._vectors():
            group.broadcast(vector)
        self.batches = self.samples = self.global_samples = 0
        self.averagings += 1

    def own_state(self) -> dict[str, Array]:
        counters = np.array([self.near_batches, self.near_samples], np.int64)
        return super().own_state() | ({NEAR_COUNTERS: counters} if self.batches else {})

    def load_own_state(self, state: dict[str, Array]) -> None:
        if NEAR_COUNTERS in state:
            self.near_batches, self.near_samples = map(int, state[NEAR_COUNTERS])
        super().load_own_state(state)

    def _vectors(self) -> list[Array]:
        """What is averaged, without empty ones."""
        vectors = [self.model.parameter_vector, self.model.statistics_vector]
        if self.averages_optimizer and self.model.optimizer is not None:
            vectors.append(self.model.optimizer.state_vector)
        return [vector for vector in vectors if vector.size]
