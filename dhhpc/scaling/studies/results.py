"""results.json: everything a study measured, and the only source of its plots and report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from dhhpc.data.targets import Task
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.scaling import kpis
from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.studies.forecast_document import StudyForecast
from dhhpc.scaling.studies.gains import Interval, Times, gains, times_of_runs
from dhhpc.scaling.studies.study import Study

RESULTS_NAME = "results.json"
AnyResults = TypeVar("AnyResults", bound=Document)
SCHEMA_VERSION = 2
# Of points that are repeats of each other: variant, threads, nodes, ranks.
Key = tuple[str, int, int | None, int]


class TimeSplit(Document):
    """Where totm went, in seconds.

    `data` (waiting for batches), `compute` (forward, backward, update), `communication` (averaging) and
    `wait` (for other ranks, before averaging) are means over the ranks of their sums over the epochs;
    `validation` and `checkpoint` are the sums of rank 0. `other` is what remains of totm: set-up.
    """

    data: float
    compute: float
    communication: float
    wait: float
    validation: float
    checkpoint: float
    other: float


class Meetings(Document):
    """How the ranks of a point met, over all its epochs.

    `nodes` are those that they were on, `by_nodes` whether the ranks of a node add up in its memory first.
    `batches` and `averagings` are those of each rank, `bytes` what one brought to all averagings together.
    """

    nodes: int
    by_nodes: bool
    batches: int
    averagings: int
    bytes: int


class Epoch(Document):
    """One epoch of the loss curve; `seconds` counts from the start of training to the epoch's end."""

    epoch: int
    seconds: float
    training_loss: float
    validation_loss: float | None = None


class Machine(Document):
    """The computer that a point ran on, as the record of its run tells.

    Attributes:
        hosts: their names.
        cpu: model of rank 0's.
        cores: that the ranks of rank 0's host could use; None in records of earlier versions, as all below.
        memory_gib: of that host.
        load: of each host before the ranks began: processes that ran or waited for a core, as means over 1, 5
            and 15 minutes.
        binding: the cores that each rank kept to.
    """

    hosts: list[str]
    cpu: str
    cores: int | None = None
    memory_gib: float | None = None
    load: dict[str, list[float]] = pydantic.Field(default_factory=dict)
    binding: list[list[int]] = pydantic.Field(default_factory=list)


class Point(Document):
    """One run of the study, finished or failed.

    Attributes:
        variant: of the study's; "" for the experiment as it is.
        nodes: that held equally many of the ranks; None where the study does not say it.
        run: the run folder, relative to the study's folder.
        target_seconds: from the start of training to the end of the first epoch that reached the study's
            target; None if none did, or there is no target.
        totm: seconds of the whole training procedure.
        samples: training samples seen by all ranks together, over all epochs.
        joules: of the whole run; None where unknown. `energy` tells from where they are known, or why not.
        test: metrics on the test split; empty if the shards have none.
        error: the last error line of a failed run.
    """

    ranks: int
    repeat: int
    variant: str = ""
    nodes: int | None = None
    run: str
    status: Literal["finished", "failed"]
    error: str | None = None
    started: str | None = None
    threads: int | None = None
    epochs: int | None = None
    samples: int | None = None
    totm: float | None = None
    samples_per_second: float | None = None
    core_seconds: float | None = None
    split: TimeSplit | None = None
    target_seconds: float | None = None
    meetings: Meetings | None = None
    joules: float | None = None
    energy: str | None = None
    curve: list[Epoch] = pydantic.Field(default_factory=list)
    test: dict[str, float] = pydantic.Field(default_factory=dict)
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    machine: Machine | None = None


class Row(Document):
    """The KPIs of one rank count of one variant, over its finished runs (`runs` of them).

    All figures are those of the run with the median totm (of an even number of runs, the faster one in the
    middle), named by `run`; `totm_min` and `totm_max` bound the totm of all of them. `megabytes_sent` is what
    a rank brought to all averagings (10^6 bytes). `target_seconds` is the median over the runs that reached
    the target, `reached` of them.

    The intervals are those of the median totm, and of what follows from it and from the base's, by drawing
    the runs again; None of fewer than three runs, and of the base's own speed-up, which is so by definition.
    `confidence` is the most that an interval of so many runs can have. `karp_flatt` is the serial fraction of
    a strong speed-up over one rank.
    """

    ranks: int
    variant: str = ""
    threads: int
    nodes: int | None = None
    runs: int
    reached: int = 0
    target_seconds: float | None = None
    totm: float
    totm_min: float
    totm_max: float
    totm_interval: Interval | None = None
    confidence: float | None = None
    speed_up: float
    speed_up_interval: Interval | None = None
    efficiency: float
    efficiency_interval: Interval | None = None
    karp_flatt: float | None = None
    karp_flatt_interval: Interval | None = None
    samples_per_second: float
    core_seconds: float
    joules: float | None = None
    megabytes_sent: float | None = None
    split: TimeSplit
    run: str
    test: dict[str, float] = pydantic.Field(default_factory=dict)


class Preprocessing(Document):
    """toppi and its parts, in seconds; T1 and with it toppi are None when the user entered no design time."""

    design_seconds: float | None
    run_seconds: float
    ranks: int
    toppi: float | None
    samples: dict[str, int]


class Summary(Document):
    """Counts that the report's first lines name: `cores` of a machine, 0 where no record tells them, and
    `most_threads` the most that a point ran on one machine."""

    points: int
    finished: int
    failed: int
    machines: int
    cores: int
    most_threads: int


class Results(Document):
    """What `results.json` holds; `task` is that of the shards and `shards` a SHA-256 over them, `masks` are
    the samples drawn, `repeat` is the command that measures the study again in another folder, `left_out` are
    ranks that were not measured on some number of nodes, in words; `forecast` is what
    `dhhpc scale report --machine` adds, and all else is measured or fitted to it."""

    schema_version: Literal[2] = 2
    study: Study
    repeat: str
    experiment_file: str
    experiment: dict[str, Any]
    task: Task = "segmentation"
    shards: str
    left_out: list[str] = pydantic.Field(default_factory=list)
    points: list[Point] = pydantic.Field(default_factory=list)
    rows: list[Row] = pydantic.Field(default_factory=list)
    fits: list[Fit] = pydantic.Field(default_factory=list)
    summary: Summary | None = None
    preprocessing: Preprocessing
    masks: list[str] = pydantic.Field(default_factory=list)
    forecast: StudyForecast | None = None


def read_results(folder: Path | str) -> Results:
    """The results in a study's folder.

    Raises:
        DhhpcError: there are none, or they are damaged.
    """
    path = Path(folder) / RESULTS_NAME
    if not path.is_file():
        raise DhhpcError(
            f"{path}: no such file; measure first with `dhhpc scale run STUDY --output {folder}`"
        )
    content = read_json(path)
    if isinstance(content, dict) and content.get("measures") == "preprocessing":
        raise DhhpcError(
            f"{path}: measures preprocessing where a study of training is needed; name the folder of one"
        )
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise DhhpcError(
            f"{path}: schema version {version} where {SCHEMA_VERSION} is expected; run the study again with "
            f"`dhhpc scale run STUDY --output {folder}`: finished points are kept"
        )
    return validated(Results, content, path)


def validated(kind: type[AnyResults], content: Any, path: Path) -> AnyResults:
    """The content of a results.json as the document that it must be.

    Raises:
        DhhpcError: it is damaged; names the file and the key.
    """
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DhhpcError(
            f"{path}: {where}: {first['msg']}; delete it and run the study again: finished points are kept"
        ) from None


def write_results(folder: Path | str, results: Results) -> None:
    """Write `results.json` whole or not at all."""
    write_json(Path(folder) / RESULTS_NAME, results.model_dump(mode="json"))


def repeats(points: Sequence[Point]) -> dict[Key, list[Point]]:
    """The finished runs that are repeats of each other."""
    found: dict[Key, list[Point]] = {}
    for point in points:
        if point.totm is not None and point.threads is not None:
            found.setdefault((point.variant, point.threads, point.nodes, point.ranks), []).append(point)
    return found


def table(points: Sequence[Point], mode: str) -> list[Row]:
    """A row for every variant, number of threads, of nodes and of ranks with a finished run.

    The base of speed-up is one rank (on one node) of the same variant and threads; or of the experiment as it
    is, which variants that tell how ranks average share; or else the fewest ranks of the variant on the
    fewest nodes.
    """
    measured = repeats(points)
    rows: list[Row] = []
    timed: dict[Key, Times] = {}
    variants = list(dict.fromkeys(point.variant for point in points))

    def place(key: Key) -> tuple[int, int, int, int]:
        return variants.index(key[0]), key[1], key[2] or 0, key[3]

    for variant, threads, nodes, ranks in sorted(measured, key=place):
        runs = measured[variant, threads, nodes, ranks]
        seconds = [point.totm for point in runs if point.totm is not None]
        times = times_of_runs(ranks, seconds)
        timed[variant, threads, nodes, ranks] = times
        totm = times.median
        typical = next(point for point in runs if point.totm == totm)
        assert typical.samples is not None
        assert typical.split is not None
        row = base_of(rows, variant, threads, ranks)
        base = timed[row.variant, row.threads, row.nodes, row.ranks] if row else None
        reached = [point.target_seconds for point in runs if point.target_seconds is not None]
        rows.append(
            Row(
                ranks=ranks,
                variant=variant,
                threads=threads,
                nodes=nodes,
                runs=len(runs),
                reached=len(reached),
                target_seconds=statistics.median(reached) if reached else None,
                totm=totm,
                totm_min=min(seconds),
                totm_max=max(seconds),
                totm_interval=times.interval,
                confidence=times.confidence,
                **vars(gains(times, base, mode)),
                samples_per_second=kpis.samples_per_second(typical.samples, totm),
                core_seconds=kpis.core_seconds(totm, ranks, threads),
                joules=typical.joules,
                megabytes_sent=typical.meetings.bytes / 1e6 if typical.meetings else None,
                split=typical.split,
                run=typical.run,
                test=typical.test,
            )
        )
    return rows


def base_of(rows: Sequence[Row], variant: str, threads: int, ranks: int) -> Row | None:
    """Of the rows above one for `ranks`, the base of its speed-up; None where it is a base itself.

    Rows of all numbers of nodes have the same base, so that their speed-ups compare.
    """
    own = [row for row in rows if (row.variant, row.threads) == (variant, threads)]
    if ranks == 1 or (own and own[0].ranks == 1):
        return own[0] if own else None
    shared = [row for row in rows if (row.variant, row.threads, row.ranks) == ("", threads, 1)]
    return next(iter([*shared, *own]), None)
