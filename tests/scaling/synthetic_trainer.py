"""Runs of a training that never happened: their seconds come from known parameters and drawn numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dhhpc.scaling.fits.mechanism import Observation
from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.results import Machine, Meetings, Point, Preprocessing, Results, TimeSplit, table
from dhhpc.scaling.studies.runner import summary_of
from dhhpc.scaling.studies.study import Study


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


def points_of(trainer: SyntheticTrainer, counts: list[int], repeats: int) -> list[Point]:
    """The points of a study whose runs never happened."""
    runs = trainer.runs(counts, repeats, seed=0)
    return [
        Point(
            ranks=run.ranks,
            repeat=number % repeats + 1,
            run=f"runs/ranks-{run.ranks}-repeat-{number % repeats + 1}",
            status="finished",
            started="2026-01-01",
            threads=1,
            epochs=run.epochs,
            samples=run.samples,
            totm=run.totm,
            split=TimeSplit(
                data=run.data,
                compute=run.compute,
                communication=run.communication,
                wait=run.wait,
                validation=run.validation,
                checkpoint=run.checkpoint,
                other=run.once,
            ),
            meetings=Meetings(
                nodes=run.nodes,
                by_nodes=run.by_nodes,
                batches=run.batches,
                averagings=run.averagings,
                bytes=int(run.size * run.averagings),
            ),
            energy="nothing counted it",
            machine=Machine(hosts=["node"], cpu="any", cores=64, memory_gib=1.0),
        )
        for number, run in enumerate(runs)
    ]


def results_of(trainer: SyntheticTrainer, counts: list[int], repeats: int, **parallel: object) -> Results:
    """The results of a strong study of it."""
    points = points_of(trainer, counts, repeats)
    experiment = {
        "network": "none",
        "loss": "none",
        "optimizer": "none",
        "batch_size": trainer.batch_size,
        "epochs": trainer.epochs,
        "parallel": {"method": "fixed"} | parallel,
        "seed": 1,
    }
    return Results(
        study=Study(name="synthetic", experiment="experiment.yml", ranks=counts, repeats=repeats),
        repeat="dhhpc scale run study.yml",
        experiment_file="experiment.yml",
        experiment=experiment,
        shards="0" * 64,
        points=points,
        rows=table(points, "strong"),
        fits=fit_points(points, "strong", experiment),
        summary=summary_of(points),
        preprocessing=Preprocessing(
            design_seconds=None, run_seconds=1.0, ranks=1, toppi=None, samples={"training": trainer.samples}
        ),
    )
