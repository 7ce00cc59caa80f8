"""Studies whose runs are records written by hand, so that their forecast can be worked out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.results import (
    Epoch,
    Machine,
    Meetings,
    Point,
    Preprocessing,
    Results,
    TimeSplit,
    table,
    write_results,
)
from dhhpc.scaling.studies.runner import summary_of
from dhhpc.scaling.studies.study import Study
from tests.scaling.hand_made_runs import record


def hand_made_study(
    folder: Path, samples_seconds: dict[int, float], variants: dict[str, dict[str, Any]] | None = None
) -> Results:
    """A study of 400 samples, each of which takes so many seconds, by number of ranks; three epochs a run.

    Variants that change `parallel` alone share the run on one rank of the experiment as it is.
    """
    (folder / "runs").mkdir(parents=True)
    points = []
    for variant, changes in (variants or {"": {}}).items():
        for ranks, seconds in samples_seconds.items():
            name = variant if ranks > 1 else ""
            run = f"runs/{f'{name}-' if name else ''}ranks-{ranks}"
            if (folder / run).exists():
                continue
            parallel = changes.get("parallel", {}) if name else {}
            record(folder / run, ranks, seconds, cores=4, **parallel)
            points.append(point_of(folder, run, name))
    content = json.loads((folder / points[0].run / "run.json").read_text())
    counts = list(samples_seconds)
    results = Results(
        study=Study(name="hand", experiment="e.yml", ranks=counts, variants=variants or {}),
        repeat="dhhpc scale run study.yml",
        experiment_file="e.yml",
        experiment=content["experiment"],
        shards="0" * 64,
        points=points,
        rows=table(points, "strong"),
        fits=fit_points(points, "strong", content["experiment"]),
        summary=summary_of(points),
        preprocessing=Preprocessing(
            design_seconds=None, run_seconds=1.0, ranks=1, toppi=None, samples=content["samples"]
        ),
    )
    write_results(folder, results)
    return results


def point_of(folder: Path, run: str, variant: str) -> Point:
    content = json.loads((folder / run / "run.json").read_text())
    ranks, totm, history = content["ranks"], content["kpis"]["totm"], content["history"]
    parts = {name: sum(epoch["ranks"][0][name] for epoch in history) for name in ("data", "compute")}
    parts |= dict.fromkeys(("communication", "wait"), 0.0)
    parts |= {
        name: sum(epoch[f"{name}_seconds"] for epoch in history) for name in ("validation", "checkpoint")
    }
    return Point(
        ranks=ranks,
        repeat=1,
        variant=variant,
        run=run,
        status="finished",
        started="2026-01-01",
        threads=content["threads"],
        epochs=len(history),
        samples=400 * len(history),
        totm=totm,
        split=TimeSplit(**parts, other=totm - sum(parts.values())),
        meetings=Meetings(nodes=1, by_nodes=False, batches=300 // ranks, averagings=60 // ranks, bytes=0),
        energy="nothing counted it",
        curve=[
            Epoch(epoch=n, seconds=n * totm / 3, training_loss=1 / n, validation_loss=(1 + 0.1 * ranks) / n)
            for n in (1, 2, 3)
        ],
        machine=Machine(hosts=["far"], cpu="any", cores=4, memory_gib=1.0),
    )
