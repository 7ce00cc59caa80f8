"""Runs of a training that never happened: their seconds come from known parameters and drawn numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhhpc.scaling.mechanism import Observation


@dataclass(frozen=True)
class SyntheticTrainer:
    """A trainer with `batch: multiply`, whose every averaging is played with drawn seconds of each rank.

    Attributes:
        jitter: standard deviation of a batch's seconds, as a share of their mean.
        noise: relative standard deviation of what a run measures.
        size: bytes of an averaging, which go by reduce-scatter and all-gather on four ranks or more.
    """

    compute: float = 0.002
    data: float = 1e-4
    latency: float = 3e-5
    seconds_per_byte: float = 1e-9
    jitter: float = 0.1
    validation: float = 0.4
    checkpoint: float = 0.05
    once: float = 0.3
    noise: float = 0.01
    size: float = 4e5
    samples: int = 4096
    batch_size: int = 8
    period: int = 1
    epochs: int = 4
    ranks_per_node: int = 1
    memory_seconds_per_byte: float = 0.0

    def communication(self, ranks: int) -> float:
        """Of one averaging on a power of two."""
        nodes = max(1, ranks // self.ranks_per_node)
        seconds = 0.0
        if ranks > 1 and self.ranks_per_node > 1:
            seconds += 3 * self.ranks_per_node * self.size * self.memory_seconds_per_byte
        if nodes == 2:
            seconds += self.latency + self.size * self.seconds_per_byte
        elif nodes > 2:
            halvings = np.log2(nodes)
            carried = 2 * (nodes - 1) / nodes * self.size
            seconds += 2 * halvings * self.latency + carried * self.seconds_per_byte
        return seconds

    def run(self, ranks: int, random: np.random.Generator) -> Observation:
        batches = self.epochs * self.samples // (self.batch_size * ranks)
        averagings = batches // self.period
        mean = self.compute * self.batch_size
        between = random.normal(mean, self.jitter * mean, (averagings, self.period, ranks)).sum(axis=1)

        def measured(seconds: float) -> float:
            return float(seconds * np.exp(random.normal(0, self.noise)))

        parts = {
            "compute": measured(batches * mean),
            "data": measured(self.data * self.batch_size * batches),
            "communication": measured(averagings * self.communication(ranks)),
            "wait": float((between.max(axis=1) - between.mean(axis=1)).sum()),
            "validation": measured(self.epochs * self.validation / ranks),
            "checkpoint": measured(self.epochs * self.checkpoint),
            "once": measured(self.once),
        }
        return Observation(
            ranks=ranks,
            nodes=max(1, ranks // self.ranks_per_node),
            by_nodes=self.ranks_per_node > 1,
            epochs=self.epochs,
            samples=self.epochs * self.samples,
            batches=batches,
            averagings=averagings,
            size=self.size,
            totm=sum(parts.values()),
            **parts,
        )

    def runs(self, counts: list[int], repeats: int, seed: int) -> list[Observation]:
        random = np.random.default_rng(seed)
        return [self.run(ranks, random) for ranks in counts for _ in range(repeats)]
