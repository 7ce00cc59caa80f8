"""Running a study: each point is a `dhhpc train` in a process of its own, and finished ones are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dhhpc.batch.command import run_dhhpc
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json
from dhhpc.scaling import kpis
from dhhpc.scaling.design_time import design_seconds
from dhhpc.scaling.energy import Rapl
from dhhpc.scaling.studies.examples import evaluate_run, save_examples
from dhhpc.scaling.studies.fitting import fit_points, threads_on_machine
from dhhpc.scaling.studies.placement import named_points, room_here, told
from dhhpc.scaling.studies.preprocessing_results import PreprocessedPoint, PreprocessingResults
from dhhpc.scaling.studies.results import (
    RESULTS_NAME,
    Point,
    Preprocessing,
    Results,
    Summary,
    table,
    write_results,
)
from dhhpc.scaling.studies.runs import failed_point, is_finished, read_point
from dhhpc.scaling.studies.study import Study, read_study
from dhhpc.scaling.studies.tasks import RUNS, Task, in_turn, layout, tasks_of, undivided
from dhhpc.training.experiment import Experiment, differences, read_experiment
from dhhpc.training.network import CreateNetwork
from dhhpc.training.run_record import EVENTS, RECORD, read_run

WARM_UP = f"{RUNS}/warm-up"


def silent(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Watcher:
    """Who hears how a study goes: `say` a line on every event, `progress` (epochs done, epochs in all, what
    is trained) while a point trains; of preprocessing, shards."""

    say: Callable[[str], None] = silent
    progress: Callable[[int, int, str], None] | None = None


def run_study(
    study_file: Path,
    folder: Path,
    create: CreateNetwork,
    experiment_file: Path | None = None,
    watcher: Watcher | None = None,
    gather: bool = False,
    leave_out: Sequence[str] = (),
    repeats: int | None = None,
) -> Results:
    """Measure every point of a study, and leave `results.json` in `folder`, written anew after each point.

    A study started again goes on where it ended: points with a finished run record are kept; unfinished ones
    are trained anew from the start, since the times of a resumed run would not compare.

    Args:
        study_file: what to measure.
        folder: of the results; gets a run folder and a log for each point under `runs`.
        create: makes networks, `dhhpc.zoo.create`.
        experiment_file: another experiment than the one the study names.
        gather: train nothing; points that others have not finished count as failed.
        leave_out: points that are not measured, by the name that their repeats share.
        repeats: of each point, in place of the study's.

    Raises:
        DhhpcError: the study or its experiment is wrong, it is of more nodes than one and this is no
            allocation, or the folder holds points of another experiment or
            of other shards. A point that fails costs no other: the results tell of it, see `check_points`.
    """
    watcher = watcher or Watcher()
    study, chosen_file = read_study(study_file, experiment_file)
    if repeats is not None:
        study = study.model_copy(update={"repeats": repeats})
    experiment = read_experiment(chosen_file)
    index = read_json(experiment.data.shards / "index.json")
    results = Results(
        study=study,
        repeat=repeat_command(study_file, folder, experiment_file, repeats),
        experiment_file=os.path.relpath(chosen_file, folder),
        experiment=experiment.model_dump(mode="json"),
        task=index["task"],
        shards=fingerprint(index),
        preprocessing=preprocessing_of(index, time_designed(study, experiment)),
    )
    listed = tasks_of(study, experiment.epochs)
    wanted = {task: changed_experiment(chosen_file, task) for task in listed}
    tasks = in_turn(listed, study)
    finished = [task for task in tasks if is_finished(folder / task.run)]
    check_kept(folder, results, wanted, finished)
    lacking = dict.fromkeys(named_points(leave_out, tasks), "by --leave-out")
    missing = [task for task in tasks if task not in finished and task not in lacking]
    if not gather:
        room = room_here(study_file, missing, os.environ)
        lacks = {task: room.lacks(task, wanted[task].threads or 1) for task in missing}
        lacking |= {task: reason for task, reason in lacks.items() if reason is not None}
        missing = [task for task in missing if task not in lacking]
    tasks = [task for task in tasks if task not in lacking]
    line = told(study, lacking)
    if line is not None:
        watcher.say(line)
    without = (layout(task.ranks, task.nodes, task.threads) for task in lacking)
    results.left_out = [*undivided(study), *dict.fromkeys(without)]
    if missing and study.warm_up and not gather:
        warm_up(chosen_file, folder, max(missing, key=lambda task: task.ranks), watcher)
    places = {task.run: place for place, task in enumerate(listed)}
    for task in tasks:
        if task in finished:
            watcher.say(f"{task.run}: kept, it was measured before")
        try:
            if task not in finished and gather:
                raise DhhpcError(f"{task.run}: {whereabouts(folder / task.run)}")
            if task not in finished:
                train(chosen_file, folder, task, watcher)
            if "test" in results.preprocessing.samples:
                evaluate_run(folder / task.run, create)
            point = read_point(folder, task, study.target)
        except DhhpcError as error:
            watcher.say(f"{task.run}: failed")
            point = failed_point(task, str(error))
        results.points.append(point)
        results.points.sort(key=lambda each: places[each.run])
        results.rows = table(results.points, study.mode)
        results.summary = summary_of(results.points)
        write_results(folder, results)
    # Once: the intervals of a fit take longer than all else here.
    results.fits = fit_points(results.points, study.mode, results.experiment)
    write_results(folder, results)
    if results.rows and "test" in results.preprocessing.samples:
        results.masks = save_examples(folder / results.rows[-1].run, folder, create)
        write_results(folder, results)
    return results


def whereabouts(run: Path) -> str:
    """Where a point stands that is not finished, and what helps."""
    if not (run / RECORD).is_file():
        return "is not measured yet; measure it with `dhhpc scale run`"
    return f"is {read_run(run).content['status']}; wait for it, or measure it anew with `dhhpc scale run`"


def check_points(results: Results | PreprocessingResults) -> None:
    """Refuse results that lack a point.

    Raises:
        DhhpcError: points have failed; names the first, its error, and how many more.
    """
    failures = [f"{point.run}: {point.error}" for point in results.points if point.status == "failed"]
    if failures:
        more = f" (and {len(failures) - 1} more points failed)" if len(failures) > 1 else ""
        raise DhhpcError(failures[0] + more)


def repeat_command(
    study_file: Path, folder: Path, experiment_file: Path | None, repeats: int | None = None
) -> str:
    """The command line that measures the study again, into a folder of its own."""
    named = ["--experiment", str(experiment_file)] if experiment_file is not None else []
    named += ["--repeats", str(repeats)] if repeats is not None else []
    again = folder.with_name(f"{folder.name}-again")
    return shlex.join(["dhhpc", "scale", "run", str(study_file), *named, "--output", str(again)])


def train(experiment_file: Path, folder: Path, task: Task, watcher: Watcher) -> None:
    """Train one point to its end; what an unfinished run has left there goes first."""
    run = folder / task.run
    if run.exists():
        watcher.say(f"{task.run}: was not finished; trained anew")
        shutil.rmtree(run)
    meter = Rapl()
    with following(run, task.epochs, task.title, watcher) as look:

        def poll() -> None:
            meter.sample()
            if look is not None:
                look()

        run_dhhpc(train_command(experiment_file, task, run), folder / f"{task.run}.log", poll)
    content = read_run(run).content
    meter.write(run, content["hosts"])
    watcher.say(f"{task.run}: totm {content['kpis']['totm']:.1f} s")


def train_command(experiment_file: Path, task: Task, run: Path) -> list[str]:
    """The arguments of `dhhpc` that train a point into the folder `run`, and start its ranks."""
    spread = ["--ranks-per-node", str(task.ranks_per_node)] if task.ranks_per_node else []
    return [*train_arguments(experiment_file, task, run), "--ranks", str(task.ranks), *spread]


def train_arguments(experiment_file: Path, task: Task, run: Path) -> list[str]:
    """The same for ranks that something else starts."""
    command = ["train", str(experiment_file), "--output", str(run)]
    return [*command, *(word for change in changes_of(task) for word in ("--set", change))]


def changed_experiment(experiment_file: Path, task: Task) -> Experiment:
    """The experiment as a point trains it.

    Raises:
        DhhpcError: its variant changes what there is not; names it.
    """
    try:
        return read_experiment(experiment_file, changes_of(task))
    except DhhpcError as error:
        if not task.variant:
            raise
        raise DhhpcError(f"variants.{task.variant} of the study: {error}") from None


def changes_of(task: Task) -> list[str]:
    """What a point changes in the experiment."""
    threads = [] if task.threads is None else [f"threads={task.threads}"]
    return [*task.settings, f"epochs={task.epochs}", *threads]


def warm_up(experiment_file: Path, folder: Path, point: Task, watcher: Watcher) -> None:
    """One epoch of a point that is thrown away: kernels get compiled, files into the system's cache."""
    run = folder / WARM_UP
    shutil.rmtree(run, ignore_errors=True)
    task = replace(point, repeat=1, epochs=1)
    with following(run, 1, "warm up", watcher) as poll:
        run_dhhpc(train_command(experiment_file, task, run), folder / f"{WARM_UP}.log", poll)
    watcher.say("warm-up: one epoch, not counted")
    shutil.rmtree(run)
    (folder / f"{WARM_UP}.log").unlink()


@contextlib.contextmanager
def following(run: Path, epochs: int, title: str, watcher: Watcher) -> Iterator[Callable[[], None] | None]:
    """A function that looks at how many epochs the run has finished and tells the watcher."""
    tell = watcher.progress
    if tell is None:
        yield None
        return
    done = 0

    def look() -> None:
        nonlocal done
        with contextlib.suppress(FileNotFoundError):
            lines = (run / EVENTS).read_text(encoding="utf-8").splitlines()
            finished = sum(line.find('"event": "epoch"') >= 0 for line in lines)
            if finished != done:
                done = finished
                tell(done, epochs, title)

    tell(0, epochs, title)
    yield look
    look()


def check_kept(
    folder: Path, results: Results, wanted: Mapping[Task, Experiment], finished: list[Task]
) -> None:
    """Refuse to mix points of different experiments or shards.

    Args:
        wanted: the experiment of each point.
        finished: points that an earlier call has left.

    Raises:
        DhhpcError: a finished point differs; names the folder and what differs.
    """
    if not finished:
        return
    mend = "choose another folder with --output, or delete this one"
    # Of any version: points of earlier ones are kept.
    earlier = read_json(folder / RESULTS_NAME) if (folder / RESULTS_NAME).is_file() else None
    if isinstance(earlier, dict) and earlier.get("shards") != results.shards:
        raise DhhpcError(f"{folder}: holds points trained on other shards than those now there; {mend}")
    for task in finished:
        found = read_run(folder / task.run).content["experiment"]
        now = wanted[task].model_dump(mode="json")
        changed = [key for key in differences(found, now) if key not in ("output", "name")]
        if changed:
            raise DhhpcError(
                f"{folder / task.run}: was trained with another {changed[0]} than the experiment; {mend}"
            )


def fingerprint(index: dict[str, Any]) -> str:
    """SHA-256 of the names and sums of all shards in an index."""
    named = [[shard["file"], shard["sha256"]] for shard in index["shards"]]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def time_designed(study: Study, experiment: Experiment) -> float | None:
    """T1 in seconds: of the study, else as `dhhpc kpi design-time` keeps it beside the shards."""
    if study.design_hours is not None:
        return study.design_hours * 3600
    return design_seconds(experiment.data.shards)


def preprocessing_of(index: dict[str, Any], designed: float | None) -> Preprocessing:
    """toppi of the shards that an index tells of, with T1 in seconds."""
    samples: dict[str, int] = {}
    for shard in index["shards"]:
        samples[shard["split"]] = samples.get(shard["split"], 0) + shard["samples"]
    return Preprocessing(
        design_seconds=designed,
        run_seconds=index["seconds"],
        ranks=index["ranks"],
        toppi=kpis.time_of_preprocessing(designed, index["seconds"]),
        samples=samples,
    )


def summary_of(points: Sequence[Point | PreprocessedPoint]) -> Summary:
    """Counts over all points."""
    finished = [point for point in points if point.status == "finished"]
    return Summary(
        points=len(points),
        finished=len(finished),
        failed=len(points) - len(finished),
        machines=len({host for point in finished if point.machine for host in point.machine.hosts}),
        cores=max((point.machine.cores or 0 for point in finished if point.machine), default=0),
        most_threads=max(map(threads_on_machine, finished), default=0),
    )
