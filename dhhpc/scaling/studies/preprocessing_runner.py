"""Running a study of preprocessing: each point is a `dhhpc preprocess` in a process of its own, into shards
that are counted and deleted, and finished ones are kept."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from dhhpc.batch.command import run_dhhpc
from dhhpc.data import read_dataset
from dhhpc.data.preprocessing import Preprocess, dealt, plan, read_preprocess
from dhhpc.data.shard_index import ShardIndex, read_index
from dhhpc.data.shard_work import Shard
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, sha256_of, write_json
from dhhpc.mpi import processor_name
from dhhpc.scaling import kpis
from dhhpc.scaling.design_time import design_seconds
from dhhpc.scaling.energy import Rapl, energy_of
from dhhpc.scaling.studies.fitting import fit_preprocessing
from dhhpc.scaling.studies.preprocessing_results import (
    PreprocessedPoint,
    PreprocessingResults,
    table_of_preprocessing,
    write_preprocessing_results,
)
from dhhpc.scaling.studies.preprocessing_study import (
    FOLDER,
    PreprocessingStudy,
    PreprocessingTask,
    preprocessing_tasks,
    read_preprocessing_study,
)
from dhhpc.scaling.studies.results import Machine, Preprocessing
from dhhpc.scaling.studies.runner import Watcher, fingerprint, repeat_command, summary_of
from dhhpc.scaling.studies.tasks import in_turn
from dhhpc.training.experiment import differences
from dhhpc.training.run_record import commit, memory_gib, now, versions

POINT, SHARDS = "point.json", "shards"
WARM_UP = f"{FOLDER}/warm-up"
ELSEWHERE = "choose another folder with --output, or delete this one"


class Work(Document):
    """What all points of a study do.

    Attributes:
        settings: the document of the pipeline, without its output.
        dataset: SHA-256 of the dataset file.
    """

    settings: dict[str, Any]
    dataset: str


class PointRecord(Document):
    """What `point.json` holds, in the folder of a finished point: what it did, and what it measured."""

    schema_version: Literal[1] = 1
    work: Work
    point: PreprocessedPoint


def run_preprocessing_study(
    study_file: Path, folder: Path, watcher: Watcher | None = None, gather: bool = False
) -> PreprocessingResults:
    """Measure every point of a study, and leave `results.json` in `folder`, written anew after each point.

    A study started again goes on where it ended: finished points are kept, and unfinished ones are measured
    anew from the start.

    Args:
        study_file: what to measure.
        folder: of the results; gets a folder and a log for each point under `runs`.
        gather: preprocess nothing; points that are not finished count as failed.

    Raises:
        DhhpcError: the study, its pipeline or its dataset is wrong, or the folder holds points of another
            one. A point that fails costs no other: the results tell of it, see `runner.check_points`.
    """
    watcher = watcher or Watcher()
    study, pipeline_file = read_preprocessing_study(study_file)
    document = read_preprocess(pipeline_file)
    dataset_file = document.folder / document.dataset
    shards = plan(read_dataset(dataset_file), document.images_per_shard)
    work = Work(
        settings=document.model_dump(mode="json", exclude={"output"}), dataset=sha256_of(dataset_file)
    )
    results = PreprocessingResults(
        study=study,
        repeat=repeat_command(study_file, folder, None),
        pipeline_file=os.path.relpath(pipeline_file, folder),
        settings=work.settings,
        images=images_in(shards),
        shard_files=len(shards),
    )
    designed = time_designed(study, document)
    listed = preprocessing_tasks(study)
    tasks = in_turn(listed, study)
    kept = {task: point for task in tasks if (point := kept_point(folder, task, work)) is not None}
    missing = [task for task in tasks if task not in kept]
    measurer = Measurer(pipeline_file, folder, work, len(shards), watcher)
    if missing and study.warm_up and not gather:
        measurer.warm_up(max(task.ranks for task in missing))
    for task in tasks:
        try:
            if task in kept:
                watcher.say(f"{task.run}: kept, it was measured before")
                point = kept[task]
            elif gather:
                raise DhhpcError(f"{task.run}: is not measured yet; measure it with `dhhpc scale run`")
            else:
                point = measurer.measure(task)
            check_same(results, point)
        except DhhpcError as error:
            watcher.say(f"{task.run}: failed")
            point = PreprocessedPoint(
                ranks=task.ranks, repeat=task.repeat, run=task.run, status="failed", error=str(error)
            )
        add(results, point, [each.run for each in listed])
        results.rows = table_of_preprocessing(results.points, lambda ranks: most_speed_up(shards, ranks))
        results.summary = summary_of(results.points)
        results.preprocessing = toppi_of(results, designed)
        write_preprocessing_results(folder, results)
    results.fits = fit_preprocessing(results.points)
    write_preprocessing_results(folder, results)
    return results


def images_in(shards: Sequence[Shard]) -> int:
    return sum(len(shard.images) for shard in shards)


def most_speed_up(shards: list[Shard], ranks: int) -> float:
    """All images over those of the rank with the most: a shard is made by one rank."""
    return images_in(shards) / max(images_in(part) for part in dealt(shards, ranks))


def time_designed(study: PreprocessingStudy, document: Preprocess) -> float | None:
    """T1 in seconds: of the study, else as `dhhpc kpi design-time` keeps it beside the pipeline's shards."""
    if study.design_hours is not None:
        return study.design_hours * 3600
    return design_seconds(document.folder / document.output)


def kept_point(folder: Path, task: PreprocessingTask, work: Work) -> PreprocessedPoint | None:
    """The point that an earlier call has finished; None if there is none.

    Raises:
        DhhpcError: it did other work than this study's, so that their times do not compare; or its record is
            damaged.
    """
    run = folder / task.run
    path = run / POINT
    if not path.is_file():
        return None
    try:
        record = PointRecord.model_validate(read_json(path))
    except pydantic.ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DhhpcError(f"{path}: {where}: is damaged; delete {run} and run the study again") from None
    changed = differences(record.work.settings, work.settings)
    if record.work.dataset != work.dataset:
        changed = [*changed, "dataset"]
    if changed:
        raise DhhpcError(
            f"{run}: was preprocessed with another {changed[0]} than the pipeline's; {ELSEWHERE}"
        )
    remove(run / SHARDS)  # a kill may have come between the record and their removal
    return record.point


def check_same(results: PreprocessingResults, point: PreprocessedPoint) -> None:
    """Take the shards of the first point for those that every other must have written.

    Raises:
        DhhpcError: this one's differ.
    """
    if results.shards is None:
        results.shards, results.bytes, results.skipped = point.shards, point.bytes, point.skipped
        results.samples = sum(point.samples.values())
    elif point.shards != results.shards:
        raise DhhpcError(
            f"{point.run}: wrote other shards than the points before, so images or secret have changed; "
            f"{ELSEWHERE}"
        )


def add(results: PreprocessingResults, point: PreprocessedPoint, order: Sequence[str]) -> None:
    """Put a point among the others, by the order of their runs."""
    results.points.append(point)
    results.points.sort(key=lambda each: order.index(each.run))


def toppi_of(results: PreprocessingResults, designed: float | None) -> Preprocessing | None:
    """toppi on the number of ranks that is fastest; None before a point has finished."""
    if not results.rows:
        return None
    fastest = min(results.rows, key=lambda row: row.seconds)
    typical = next(point for point in results.points if point.run == fastest.run)
    return Preprocessing(
        design_seconds=designed,
        run_seconds=fastest.seconds,
        ranks=fastest.ranks,
        toppi=kpis.time_of_preprocessing(designed, fastest.seconds),
        samples=typical.samples,
    )


class Measurer:
    """Runs the points of one study.

    Args:
        shards: that each of them will make.
    """

    def __init__(self, pipeline_file: Path, folder: Path, work: Work, shards: int, watcher: Watcher) -> None:
        self.pipeline_file, self.folder, self.work = pipeline_file, folder, work
        self.shards, self.watcher = shards, watcher

    def measure(self, task: PreprocessingTask) -> PreprocessedPoint:
        """Preprocess once, note what came of it, and delete the shards.

        Raises:
            DhhpcError: preprocessing has failed.
        """
        run = self.folder / task.run
        if run.exists():
            self.watcher.say(f"{task.run}: was not finished; measured anew")
            remove(run)
        started, meter = now(), Rapl()
        try:
            index = self.preprocess(task.run, task.ranks, task.title, meter.sample)
            meter.write(run, [socket.gethostname()])
            point = point_of(task, index, started, *energy_of(run, {}))
            write_json(run / POINT, PointRecord(work=self.work, point=point).model_dump(mode="json"))
        finally:
            remove(run / SHARDS)
        self.watcher.say(f"{task.run}: T2 {point.seconds:.1f} s")
        return point

    def warm_up(self, ranks: int) -> None:
        """A run that is thrown away: kernels get compiled, images into the system's cache."""
        run = self.folder / WARM_UP
        remove(run)
        try:
            self.preprocess(WARM_UP, ranks, "warm up", lambda: None)
        finally:
            remove(run)
        self.watcher.say("warm-up: preprocessed once, not counted")
        (self.folder / f"{WARM_UP}.log").unlink()

    def preprocess(self, name: str, ranks: int, title: str, poll: Callable[[], None]) -> ShardIndex:
        """Make the shards of a point, and tell the watcher how many there are; returns their index."""
        shards = self.folder / name / SHARDS
        tell = self.watcher.progress

        def look() -> None:
            poll()
            if tell is not None:
                tell(len(list(shards.glob("*.h5"))), self.shards, title)

        if tell is not None:
            tell(0, self.shards, title)
        command = ["preprocess", str(self.pipeline_file), "--output", str(shards.absolute())]
        run_dhhpc([*command, "--ranks", str(ranks)], self.folder / f"{name}.log", look)
        look()
        return read_index(shards)


def point_of(
    task: PreprocessingTask, index: ShardIndex, started: str, joules: float | None, energy: str
) -> PreprocessedPoint:
    """What the index of a point's shards tells of it."""
    samples: dict[str, int] = {}
    for shard in index.shards:
        samples[shard.split] = samples.get(shard.split, 0) + shard.samples
    checkout = commit()
    return PreprocessedPoint(
        ranks=task.ranks,
        repeat=task.repeat,
        run=task.run,
        status="finished",
        started=started,
        seconds=index.seconds,
        samples=samples,
        skipped=len(index.skipped),
        bytes=sum(shard.bytes for shard in index.shards),
        shards=fingerprint(index.model_dump()),
        samples_per_second=kpis.samples_per_second(sum(samples.values()), index.seconds),
        core_seconds=kpis.core_seconds(index.seconds, task.ranks, 1),
        joules=joules,
        energy=energy,
        versions=versions() | ({"commit": checkout} if checkout else {}),
        machine=this_machine(),
    )


def this_machine() -> Machine:
    """Where this process, and with it all ranks of a point, runs."""
    return Machine(
        hosts=[socket.gethostname()],
        cpu=processor_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=memory_gib(),
    )


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
