"""results.json: everything a study measured, and the only source of its plots and report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pydantic

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.scaling import kpis
from dhhpc.scaling.bootstrap import (
    DRAWS,
    FEWEST_RUNS,
    SEED,
    Array,
    interval_of,
    medians_drawn,
    most_confidence,
)
from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.studies.study import Study

RESULTS_NAME = "results.json"
SCHEMA_VERSION = 2


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


class Interval(Document):
    """A 95 % confidence interval; see `dhhpc.scaling.bootstrap`."""

    low: float
    high: float


class Epoch(Document):
    """One epoch of the loss curve; `seconds` counts from the start of training to the epoch's end."""

    epoch: int
    seconds: float
    training_loss: float
    validation_loss: float | None = None


class Machine(Document):
    """The computer that a point ran on: host names, CPU model, cores this process may use, memory in GiB."""

    hosts: list[str]
    cpu: str
    cores: int
    memory_gib: float


class Point(Document):
    """One run of the study, finished or failed.

    Attributes:
        variant: of the study's; "" for the experiment as it is.
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
    middle), named by `run`; `totm_min` and `totm_max` bound the totm of all of them. `target_seconds` is the
    median over the runs that reached the target, `reached` of them.

    The intervals are those of the median totm, and of what follows from it and from the base's, by drawing
    the runs again; None of fewer than three runs, and of the base's own speed-up, which is so by definition.
    `confidence` is the most that an interval of so many runs can have. `karp_flatt` is the serial fraction of
    a strong speed-up over one rank.
    """

    ranks: int
    variant: str = ""
    threads: int
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
    """Counts that the report's first lines name; `most_threads` is the most that a point ran in all."""

    points: int
    finished: int
    failed: int
    machines: int
    cores: int
    most_threads: int


class Results(Document):
    """What `results.json` holds; `shards` is a SHA-256 over the shards, `masks` are the samples drawn,
    `repeat` is the command that measures the study again in another folder."""

    schema_version: Literal[2] = 2
    study: Study
    repeat: str
    experiment_file: str
    experiment: dict[str, Any]
    shards: str
    points: list[Point] = pydantic.Field(default_factory=list)
    rows: list[Row] = pydantic.Field(default_factory=list)
    fits: list[Fit] = pydantic.Field(default_factory=list)
    summary: Summary | None = None
    preprocessing: Preprocessing
    masks: list[str] = pydantic.Field(default_factory=list)


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
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise DhhpcError(
            f"{path}: schema version {version} where {SCHEMA_VERSION} is expected; run the study again with "
            f"`dhhpc scale run STUDY --output {folder}`: finished points are kept"
        )
    try:
        return Results.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DhhpcError(
            f"{path}: {where}: {first['msg']}; delete it and run the study again: finished points are kept"
        ) from None


def write_results(folder: Path | str, results: Results) -> None:
    """Write `results.json` whole or not at all."""
    write_json(Path(folder) / RESULTS_NAME, results.model_dump(mode="json"))


def table(points: Sequence[Point], mode: str) -> list[Row]:
    """A row for every variant, number of threads and of ranks with a finished run.

    The base of speed-up is one rank of the same variant and threads; or of the experiment as it is, which
    variants that tell how ranks average share; or else the fewest ranks of the variant.
    """
    measured: dict[tuple[str, int, int], list[Point]] = {}
    for point in points:
        if point.totm is not None and point.threads is not None:
            measured.setdefault((point.variant, point.threads, point.ranks), []).append(point)
    rows: list[Row] = []
    drawn_of: dict[tuple[str, int, int], Array] = {}
    variants = list(dict.fromkeys(point.variant for point in points))
    for variant, threads, ranks in sorted(measured, key=lambda key: (variants.index(key[0]), key[1], key[2])):
        runs = measured[variant, threads, ranks]
        times = [point.totm for point in runs if point.totm is not None]
        totm = statistics.median_low(times)
        typical = next(point for point in runs if point.totm == totm)
        assert typical.samples is not None
        assert typical.split is not None
        row = base_of(rows, variant, threads, ranks)
        base_ranks, base = (row.ranks, row.totm) if row else (ranks, totm)
        speed_up = kpis.speed_up(base_ranks, base, ranks, totm, mode)
        reached = [point.target_seconds for point in runs if point.target_seconds is not None]
        drawn_base = drawn_of.get((row.variant, threads, base_ranks)) if row else None
        drawn = medians_drawn(times, DRAWS, (SEED, ranks)) if len(times) >= FEWEST_RUNS else None
        gained: Interval | None = None
        if drawn is not None:
            drawn_of[variant, threads, ranks] = drawn
            if drawn_base is not None:
                # The same for every drawn pair of medians as for the measured pair.
                gained = interval(drawn_base / drawn * (speed_up * totm / base))
        amdahl = mode == "strong" and base_ranks == 1 < ranks
        rows.append(
            Row(
                ranks=ranks,
                variant=variant,
                threads=threads,
                runs=len(runs),
                reached=len(reached),
                target_seconds=statistics.median(reached) if reached else None,
                totm=totm,
                totm_min=min(times),
                totm_max=max(times),
                totm_interval=None if drawn is None else interval(drawn),
                confidence=None if drawn is None else most_confidence(len(times)),
                speed_up=speed_up,
                speed_up_interval=gained,
                efficiency=kpis.efficiency(speed_up, ranks),
                efficiency_interval=of_both_ends(gained, partial(kpis.efficiency, ranks=ranks)),
                karp_flatt=kpis.karp_flatt(speed_up, ranks) if amdahl else None,
                karp_flatt_interval=of_both_ends(gained, partial(kpis.karp_flatt, ranks=ranks))
                if amdahl
                else None,
                samples_per_second=kpis.samples_per_second(typical.samples, totm),
                core_seconds=kpis.core_seconds(totm, ranks, threads),
                joules=typical.joules,
                split=typical.split,
                run=typical.run,
                test=typical.test,
            )
        )
    return rows


def interval(drawn: Array) -> Interval:
    low, high = interval_of(drawn)
    return Interval(low=low, high=high)


def of_both_ends(gained: Interval | None, figure: Callable[[float], float]) -> Interval | None:
    """The interval of a figure that only grows, or only falls, with the speed-up."""
    if gained is None:
        return None
    low, high = sorted(figure(end) for end in (gained.low, gained.high))
    return Interval(low=low, high=high)


def base_of(rows: Sequence[Row], variant: str, threads: int, ranks: int) -> Row | None:
    """Of the rows above one for `ranks`, the base of its speed-up; None where it is a base itself."""
    own = [row for row in rows if (row.variant, row.threads) == (variant, threads)]
    if ranks == 1 or (own and own[0].ranks == 1):
        return own[0] if own else None
    shared = [row for row in rows if (row.variant, row.threads, row.ranks) == ("", threads, 1)]
    return next(iter([*shared, *own]), None)
