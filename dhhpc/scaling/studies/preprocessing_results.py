"""results.json of a study of preprocessing, the only source of its plots and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from dhhpc.documents import Document
from dhhpc.files import read_json, write_json
from dhhpc.scaling import kpis
from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.studies.gains import Interval, Times, gains, times_of_runs
from dhhpc.scaling.studies.preprocessing_study import PreprocessingStudy
from dhhpc.scaling.studies.results import RESULTS_NAME, Machine, Preprocessing, Summary, validated


class PreprocessedPoint(Document):
    """One run of the study, finished or failed.

    Attributes:
        run: its folder, relative to the study's; the shards in it were deleted when they were counted.
        threads: of each rank; preprocessing has one.
        seconds: T2 of the KPI toppi, as the index of the shards tells it.
        samples: written to shards, by split.
        skipped: damaged images that were left out.
        bytes: of all shards together.
        shards: a SHA-256 over the sums of all shards: equal ones hold the same samples, bit for bit.
        joules: of the whole run; None where unknown. `energy` tells from where they are known, or why not.
        error: the last error line of a failed run.
    """

    ranks: int
    repeat: int
    run: str
    status: Literal["finished", "failed"]
    error: str | None = None
    started: str | None = None
    threads: Literal[1] = 1
    seconds: float | None = None
    samples: dict[str, int] = pydantic.Field(default_factory=dict)
    skipped: int | None = None
    bytes: int | None = None
    shards: str | None = None
    samples_per_second: float | None = None
    core_seconds: float | None = None
    joules: float | None = None
    energy: str | None = None
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    machine: Machine | None = None


class PreprocessedRow(Document):
    """The KPIs of one rank count, over its finished runs (`runs` of them).

    All figures are those of the run with the median time (of an even number of runs, the faster one in the
    middle), named by `run`; `seconds_min` and `seconds_max` bound the times of all of them. Intervals,
    `confidence` and `karp_flatt` are as in the rows of a study of training.

    `most_speed_up` is what the ranks could reach at best, were all images alike and nothing lost: a shard is
    made by one rank, and the rank with the most images has to make them all.
    """

    ranks: int
    runs: int
    seconds: float
    seconds_min: float
    seconds_max: float
    seconds_interval: Interval | None
    confidence: float | None
    speed_up: float
    speed_up_interval: Interval | None
    efficiency: float
    efficiency_interval: Interval | None
    karp_flatt: float | None
    karp_flatt_interval: Interval | None
    most_speed_up: float
    samples_per_second: float
    core_seconds: float
    joules: float | None
    run: str


class PreprocessingResults(Document):
    """What `results.json` holds.

    Attributes:
        measures: tells these results from those of a study of training.
        repeat: the command that measures the study again in another folder.
        pipeline_file: of `study.preprocessing`, relative to the study's folder; `settings` is what it holds.
        images: of the dataset's splits; `shard_files` are made of them.
        skipped: images that every run left out as damaged.
        samples, bytes: in all shards of each run.
        shards: the sum of the shards that every finished run wrote; None before the first.
        preprocessing: toppi on the number of ranks with the least median of T2.
    """

    schema_version: Literal[1] = 1
    measures: Literal["preprocessing"] = "preprocessing"
    study: PreprocessingStudy
    repeat: str
    pipeline_file: str
    settings: dict[str, Any]
    images: int
    shard_files: int
    samples: int | None = None
    skipped: int | None = None
    bytes: int | None = None
    shards: str | None = None
    points: list[PreprocessedPoint] = pydantic.Field(default_factory=list)
    rows: list[PreprocessedRow] = pydantic.Field(default_factory=list)
    fits: list[Fit] = pydantic.Field(default_factory=list)
    summary: Summary | None = None
    preprocessing: Preprocessing | None = None


def holds_preprocessing(folder: Path | str) -> bool:
    """Whether the results in a study's folder are those of preprocessing; False where there are none."""
    path = Path(folder) / RESULTS_NAME
    content = read_json(path) if path.is_file() else None
    return isinstance(content, dict) and content.get("measures") == "preprocessing"


def read_preprocessing_results(folder: Path | str) -> PreprocessingResults:
    """The results in the folder of a study of preprocessing.

    Raises:
        DhhpcError: there are none, or they are damaged.
    """
    path = Path(folder) / RESULTS_NAME
    return validated(PreprocessingResults, read_json(path), path)


def write_preprocessing_results(folder: Path | str, results: PreprocessingResults) -> None:
    """Write `results.json` whole or not at all."""
    write_json(Path(folder) / RESULTS_NAME, results.model_dump(mode="json"))


def table_of_preprocessing(
    points: Sequence[PreprocessedPoint], most_speed_up: Callable[[int], float]
) -> list[PreprocessedRow]:
    """A row for every number of ranks with a finished run; the fewest are the base of speed-up.

    Args:
        most_speed_up: that a number of ranks could reach, see `PreprocessedRow`.
    """
    measured: dict[int, list[tuple[float, PreprocessedPoint]]] = {}
    for point in points:
        if point.seconds is not None:
            measured.setdefault(point.ranks, []).append((point.seconds, point))
    rows: list[PreprocessedRow] = []
    base: Times | None = None
    for ranks, runs in sorted(measured.items()):
        seconds = [each for each, _ in runs]
        times = times_of_runs(ranks, seconds)
        typical = next(point for each, point in runs if each == times.median)
        rows.append(
            PreprocessedRow(
                ranks=ranks,
                runs=len(seconds),
                seconds=times.median,
                seconds_min=min(seconds),
                seconds_max=max(seconds),
                seconds_interval=times.interval,
                confidence=times.confidence,
                **vars(gains(times, base, "strong")),
                most_speed_up=most_speed_up(ranks),
                samples_per_second=kpis.samples_per_second(sum(typical.samples.values()), times.median),
                core_seconds=kpis.core_seconds(times.median, ranks, typical.threads),
                joules=typical.joules,
                run=typical.run,
            )
        )
        base = base or times
    return rows
