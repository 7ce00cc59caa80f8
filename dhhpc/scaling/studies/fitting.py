"""Which models are fitted to the points of a study, and why some are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.fits.laws import LAWS, fit_law
from dhhpc.scaling.fits.mechanism import Observation, fit_mechanism
from dhhpc.scaling.studies.preprocessing_results import PreprocessedPoint
from dhhpc.scaling.studies.results import Point


def fit_points(points: Sequence[Point], mode: str, experiment: dict[str, Any]) -> list[Fit]:
    """The laws for this mode of scaling and the mechanistic model, each fitted or refused.

    Runs whose ranks shared cores count for none: a model of n ranks is one of n times the cores.

    Args:
        mode: "strong" or "weak".
        experiment: of the points, as in `results.json`.
    """
    finished = [point for point in points if point.status == "finished"]
    unlike = why_not_together(finished)
    if unlike is not None:
        return [
            Fit(model=model, refused=unlike, observations=len(finished))
            for model in (*(law.model for law in LAWS[mode]), "mechanistic")
        ]
    own = [point for point in finished if not shares_cores(point)]
    fits = fit_laws(mode, [(point.ranks, point.totm) for point in own if point.totm is not None])
    reason = why_not_mechanistic(own, experiment)
    if reason is not None:
        fits.append(Fit(model="mechanistic", refused=reason, observations=len(own)))
    else:
        fits.append(fit_mechanism([observation_of(point) for point in own]))
    return and_those_left_out(fits, ranks_that_share(finished))


def fit_preprocessing(points: Sequence[PreprocessedPoint]) -> list[Fit]:
    """The laws of strong scaling fitted to the times of preprocessing, as above."""
    own = [point for point in points if not shares_cores(point)]
    fits = fit_laws("strong", [(point.ranks, point.seconds) for point in own if point.seconds is not None])
    return and_those_left_out(fits, ranks_that_share(points))


def fit_laws(mode: str, measured: Sequence[tuple[int, float]]) -> list[Fit]:
    """The laws for this mode of scaling, fitted to ranks and seconds."""
    ranks, seconds = np.array(measured, float).reshape(-1, 2).T
    return [fit_law(law, ranks, seconds) for law in LAWS[mode]]


def and_those_left_out(fits: Sequence[Fit], sharing: Sequence[int]) -> list[Fit]:
    """The same, where refusals also tell of the rank counts that were left out."""
    if not sharing:
        return list(fits)
    beside = f"; runs on {' and '.join(map(str, sharing))} ranks, which shared cores, count for none"
    return [
        fit if fit.refused is None else fit.model_copy(update={"refused": fit.refused + beside})
        for fit in fits
    ]


def threads_on_machine(point: Point | PreprocessedPoint) -> int:
    """How many threads a point ran on each of its machines, or the fullest of them."""
    machines = len(point.machine.hosts) if point.machine else 1
    return math.ceil(point.ranks / machines) * (point.threads or 1)


def shares_cores(point: Point | PreprocessedPoint) -> bool:
    """Whether threads of a point had to share cores; False where its record does not tell of cores."""
    return point.machine is not None and 0 < (point.machine.cores or 0) < threads_on_machine(point)


def ranks_that_share(points: Sequence[Point | PreprocessedPoint]) -> list[int]:
    """The rank counts with a finished run whose threads had to share cores."""
    return sorted({each.ranks for each in points if each.status == "finished" and shares_cores(each)})


def runs_that_share(points: Sequence[Point | PreprocessedPoint]) -> set[str]:
    """The folders of finished runs whose threads had to share cores."""
    return {each.run for each in points if each.status == "finished" and shares_cores(each)}


def why_not_together(finished: Sequence[Point]) -> str | None:
    """Why no law describes all points; None where their ranks differ in number alone."""
    variants = dict.fromkeys(point.variant for point in finished if point.variant)
    if len(variants) > 1:
        return f"{' and '.join(variants)} are unlike trainings; fit each in a study of its own"
    threads = sorted({point.threads for point in finished if point.threads is not None})
    if len(threads) > 1:
        return f"ranks had {' and '.join(map(str, threads))} threads; fit each number in a study of its own"
    nodes = sorted({point.nodes for point in finished if point.nodes is not None})
    if len(nodes) > 1:
        return f"ranks were on {' and '.join(map(str, nodes))} nodes; fit each number in a study of its own"
    return None


def why_not_mechanistic(finished: Sequence[Point], experiment: dict[str, Any]) -> str | None:
    """What of the experiment the mechanistic model does not describe; None if it may fit."""
    parallel = experiment["parallel"]
    if parallel["method"] in ("spatial", "two-level"):
        return f"averaging is not one all-reduce of all ranks with parallel.method {parallel['method']}"
    if parallel.get("compression"):
        return "compressed sums do not take the time of an all-reduce of their bytes"
    return None


def observation_of(point: Point) -> Observation:
    """What the mechanistic model needs of a finished point."""
    assert point.totm is not None
    assert point.split is not None
    assert point.meetings is not None
    split, meetings = point.split, point.meetings
    return Observation(
        ranks=point.ranks,
        nodes=meetings.nodes,
        by_nodes=meetings.by_nodes,
        epochs=point.epochs or 0,
        samples=point.samples or 0,
        batches=meetings.batches,
        averagings=meetings.averagings,
        size=meetings.bytes / meetings.averagings if meetings.averagings else 0.0,
        totm=point.totm,
        compute=split.compute,
        data=split.data,
        communication=split.communication,
        wait=split.wait,
        validation=split.validation,
        checkpoint=split.checkpoint,
        once=split.other,
    )
