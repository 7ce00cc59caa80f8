"""A study as batch jobs: one for each point, on nodes of its own, and one that gathers them into a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.placement import Room, told
from dhhpc.scaling.studies.runner import changed_experiment, train_arguments
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


@dataclass(frozen=True)
class StudyJobs:
    """A study as jobs.

    Attributes:
        points: to measure.
        left_out: the names of those that the site has no room for.
        told: what is left out and why, in one line; None if nothing is.
    """

    points: list[PointJob]
    left_out: tuple[str, ...] = ()
    told: str | None = None


def study_jobs(
    study_file: Path, folder: Path, ranks_per_node: int, room: Room, threads: int | None = None
) -> StudyJobs:
    """The points of a study that are not finished, in the order in which it measures them.

    Args:
        folder: of the results; absolute, as jobs may start elsewhere.
        ranks_per_node: of a full node, where the study does not say `nodes`; fewer ranks than that share one.
        room: what the site has for them.
        threads: cores that the jobs ask for each rank; None for those of its threads.

    Raises:
        DhhpcError: the study is wrong, some number of ranks leaves a node partly empty, or there is room for
            no point; names it.
    """
    study, experiment_file = read_study(study_file)
    experiment = read_experiment(experiment_file)
    if study.nodes and ranks_per_node != 1:
        raise DhhpcError(
            f"--ranks-per-node {ranks_per_node}: {study_file} says by `nodes` how ranks are spread; drop it "
            f"here, or `nodes` there"
        )
    tasks = in_turn(tasks_of(study, experiment.epochs), study)
    lacking = {}
    for task in tasks:
        cores = max(threads or 1, changed_experiment(experiment_file, task).threads or 1)
        reason = room.lacks(task, cores)
        if reason is not None:
            lacking[task] = reason
    line = told(study, lacking)
    if len(lacking) == len(tasks):
        raise DhhpcError(f"{study_file}: nodes {study.nodes}: there is room for no point; {line}")
    found = []
    for task in tasks:
        if task in lacking:
            continue
        if task.nodes is None and task.ranks > ranks_per_node and task.ranks % ranks_per_node:
            raise DhhpcError(
                f"{study_file}: ranks {task.ranks}: are no whole nodes of {ranks_per_node} ranks "
                f"(--ranks-per-node); give multiples of that, or a part of one node"
            )
        if is_finished(folder / task.run):
            continue
        found.append(
            PointJob(
                task,
                task.nodes or max(1, task.ranks // ranks_per_node),
                task.ranks_per_node or min(task.ranks, ranks_per_node),
                tuple(train_arguments(experiment_file.absolute(), task, folder / task.run)),
            )
        )
    return StudyJobs(found, tuple(dict.fromkeys(task.point for task in lacking)), line)


def gathering(study_file: Path, folder: Path, left_out: Sequence[str] = ()) -> tuple[str, ...]:
    """The arguments of `dhhpc` that evaluate and report what the points' jobs have left.

    Args:
        left_out: the names of points that have no job.
    """
    without = (word for name in left_out for word in ("--leave-out", name))
    return ("scale", "run", str(study_file.absolute()), "--output", str(folder), "--gather", *without)
