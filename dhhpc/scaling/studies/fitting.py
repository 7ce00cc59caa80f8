"""Which models are fitted to the points of a study, and why some are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.fits.laws import LAWS, fit_law
from dhhpc.scaling.fits.mechanism import Observation, fit_mechanism
from dhhpc.scaling.studies.results import Point


def fit_points(points: Sequence[Point], mode: str, experiment: dict[str, Any]) -> list[Fit]:
    """The laws for this mode of scaling and the mechanistic model, each fitted or refused.

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
    ranks = np.array([point.ranks for point in finished])
    totm = np.array([point.totm for point in finished], float)
    fits = [fit_law(law, ranks, totm) for law in LAWS[mode]]
    reason = why_not_mechanistic(finished, experiment)
    if reason is not None:
        return [*fits, Fit(model="mechanistic", refused=reason, observations=len(finished))]
    return [*fits, fit_mechanism([observation_of(point) for point in finished])]


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
