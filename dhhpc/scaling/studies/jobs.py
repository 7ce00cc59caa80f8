"""A study as batch jobs: one for each point, on nodes of its own, and one that gathers them into a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.runner import train_arguments
from dhhpc.scaling.studies.runs import is_finished
from dhhpc.scaling.studies.study import read_study
from dhhpc.scaling.studies.tasks import Task, in_turn, tasks_of
from dhhpc.training.experiment import read_experiment


@dataclass(frozen=True)
class PointJob:
    """A point to measure as a job.

    Attributes:
        task: the point.
        nodes, ranks_per_node: that hold its ranks.
        arguments: of `dhhpc`, without the number of ranks, which the job's launcher tells.
    """

    task: Task
    nodes: int
    ranks_per_node: int
    arguments: tuple[str, ...]


def point_jobs(study_file: Path, folder: Path, ranks_per_node: int) -> list[PointJob]:
    """The points of a study that are not finished, in the order in which it measures them.

    Args:
        folder: of the results; absolute, as jobs may start elsewhere.
        ranks_per_node: of a full node; fewer ranks than that share one.

    Raises:
        DhhpcError: the study is wrong, or some number of ranks leaves a node partly empty; names it.
    """
    study, experiment_file = read_study(study_file)
    experiment = read_experiment(experiment_file)
    found = []
    for task in in_turn(tasks_of(study, experiment.epochs), study):
        if task.ranks > ranks_per_node and task.ranks % ranks_per_node:
            raise DhhpcError(
                f"{study_file}: ranks {task.ranks}: are no whole nodes of {ranks_per_node} ranks "
                f"(--ranks-per-node); give multiples of that, or a part of one node"
            )
        if is_finished(folder / task.run):
            continue
        found.append(
            PointJob(
                task,
                max(1, task.ranks // ranks_per_node),
                min(task.ranks, ranks_per_node),
                tuple(train_arguments(experiment_file.absolute(), task, folder / task.run)),
            )
        )
    return found


def gathering(study_file: Path, folder: Path) -> tuple[str, ...]:
    """The arguments of `dhhpc` that evaluate and report what the points' jobs have left."""
    return ("scale", "run", str(study_file.absolute()), "--output", str(folder), "--gather")
