"""The KPIs of runs, series and studies: what each cost, and what it took until there was a model (ttmip)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from dhhpc.data.shard_index import read_index
from dhhpc.errors import DhhpcError
from dhhpc.scaling import kpis
from dhhpc.scaling.design_time import design_seconds
from dhhpc.scaling.energy import energy_of
from dhhpc.scaling.studies.results import RESULTS_NAME, read_results
from dhhpc.training import holds_series, read_run, read_series
from dhhpc.training.run_record import RECORD


@dataclass(frozen=True)
class RunKpis:
    """One run.

    Attributes:
        totm: seconds of training so far; None before the first epoch has ended.
        samples_per_second: of all ranks, while training.
        core_hours: totm times the cores of all ranks.
        joules: None where unknown; `energy` tells from where it is known, or why not.
        cost: in the currency of the price; None without one.
    """

    run: str
    status: str
    ranks: int
    totm: float | None
    samples_per_second: float | None
    core_hours: float | None
    joules: float | None
    energy: str
    cost: float | None


@dataclass(frozen=True)
class ModelTried:
    """A model, and the seconds of totm that it adds to ttmip: `counted` says which of its runs these are."""

    folder: str
    totm: float
    counted: str


@dataclass(frozen=True)
class Pipeline:
    """A pipeline by the shards that it made: T1, T2 and their sum in seconds; None where unknown."""

    shards: str
    design_seconds: float | None
    run_seconds: float | None
    toppi: float | None


@dataclass(frozen=True)
class ModelKpis:
    """Runs, the models that they tried, and the pipelines of these.

    Attributes:
        ttmip: seconds; None where a part is unknown.
        at_least: the sum of what is known.
    """

    runs: Sequence[RunKpis]
    models: Sequence[ModelTried]
    pipelines: Sequence[Pipeline]
    ttmip: float | None
    at_least: float


def kpis_of(folders: Sequence[Path], price: float | None = None) -> ModelKpis:
    """The KPIs of run folders, folders of series and folders of studies.

    Each folder is a model that was tried. All members of a series count for it, since all were needed to
    judge it; of a study, which trains the same model again and again to time it, the fastest point's
    median does. Pipelines count once, however many models use their shards. Their T1 is that of a study given
    (`design_hours`), else that kept beside the shards.

    Args:
        price: of a core-hour.

    Raises:
        DhhpcError: a folder is none of these, is given twice, or a record is damaged.
    """
    runs: list[RunKpis] = []
    models: list[ModelTried] = []
    shards: dict[Path, float | None] = {}
    known: set[Path] = set()
    for folder in folders:
        members, kind = members_of(folder)
        for member in members:
            if member.resolve() in known:
                raise DhhpcError(f"{member}: is given twice; name each model once")
            known.add(member.resolve())
        contents = [(member, read_run(member).content) for member in members]
        try:
            measured = [
                run_kpis(member, alone_in_job(content, contents), price) for member, content in contents
            ]
            for _, content in contents:
                path = Path(content["experiment"]["data"]["shards"])
                shards[path] = shards.get(path) or entered(folder, kind)
        except (KeyError, TypeError) as error:
            raise DhhpcError(f"{folder}: a record lacks {error}; train it again with this dhhpc") from None
        runs += measured
        models.append(tried(folder, kind, measured))
    pipelines = [pipeline_of(path, design) for path, design in shards.items()]
    parts = [part for each in pipelines for part in (each.design_seconds, each.run_seconds)]
    totm = [model.totm for model in models]
    return ModelKpis(
        runs=runs,
        models=models,
        pipelines=pipelines,
        ttmip=None
        if None in parts
        else kpis.time_to_model([each.toppi for each in pipelines if each.toppi is not None], totm),
        at_least=kpis.time_to_model([part for part in parts if part is not None], totm),
    )


def members_of(folder: Path) -> tuple[list[Path], str]:
    """The run folders in a run's, a series' or a study's folder, and which of these it is."""
    if holds_series(folder):
        series = read_series(folder)
        return [member.folder for member in series.members if (member.folder / RECORD).is_file()], "series"
    if (folder / RESULTS_NAME).is_file():
        points = read_results(folder).points
        return [folder / point.run for point in points if point.status == "finished"], "study"
    if (folder / RECORD).is_file():
        return [folder], "run"
    raise DhhpcError(
        f"{folder}: no run, series or study (no {RECORD} or {RESULTS_NAME}); give a folder that "
        f"`dhhpc train` or `dhhpc scale run` wrote"
    )


def alone_in_job(content: dict[str, Any], beside: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """A record without its job, if that ran others of the folder, too: SLURM tells their energy together."""
    job = content.get("slurm_job_id")
    shared = sum(other.get("slurm_job_id") == job for _, other in beside) > 1
    return content | {"slurm_job_id": None} if shared else content


def run_kpis(folder: Path, content: dict[str, Any], price: float | None) -> RunKpis:
    """Of one run, from its record."""
    measured = content.get("kpis", {})
    totm = measured.get("totm")
    cores = sum(content["threads_of_ranks"])
    joules, energy = energy_of(folder, content)
    core_seconds = None if totm is None else kpis.core_seconds(totm, cores, 1)
    return RunKpis(
        run=str(folder),
        status=content["status"],
        ranks=content["ranks"],
        totm=totm,
        samples_per_second=measured.get("samples_per_second"),
        core_hours=None if core_seconds is None else kpis.core_hours(core_seconds),
        joules=joules,
        energy=energy,
        cost=None if price is None or core_seconds is None else kpis.cost(core_seconds, price),
    )


def tried(folder: Path, kind: str, runs: Sequence[RunKpis]) -> ModelTried:
    """What the runs of one folder add to ttmip."""
    times = [run.totm for run in runs if run.totm is not None]
    if kind == "study" and times:
        # Repeats of a point have one name before the number of each.
        repeats: dict[tuple[str, int], list[float]] = {}
        for run in runs:
            if run.totm is not None:
                repeats.setdefault((run.run.rpartition("-repeat-")[0], run.ranks), []).append(run.totm)
        totm, ranks = min((median_low(of_point), ranks) for (_, ranks), of_point in repeats.items())
        return ModelTried(str(folder), totm, f"the median run on {ranks} ranks, the fastest")
    counted = f"all {len(times)} members" if kind == "series" else "the run"
    return ModelTried(str(folder), sum(times), counted)


def entered(folder: Path, kind: str) -> float | None:
    """T1 in seconds as a study's results have it."""
    return read_results(folder).preprocessing.design_seconds if kind == "study" else None


def pipeline_of(shards: Path, entered: float | None) -> Pipeline:
    """toppi of a folder of shards, which may be gone; T1 is `entered`, else that kept beside them."""
    try:
        run_seconds: float | None = read_index(shards).seconds
    except DhhpcError:
        run_seconds = None
    design = design_seconds(shards) if entered is None else entered
    return Pipeline(str(shards), design, run_seconds, kpis.time_of_preprocessing(design, run_seconds))
