"""A study's results for other programs: MLPerf log lines, and Prometheus' text format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from dhhpc.scaling.studies.results import Point, Results, Row


def mllog(results: Results) -> Iterator[str]:
    """The finished runs as lines of MLPerf's training log (MLCommons, mlperf_logging, format 1.0.0): each
    begins with `:::MLLOG`, and JSON follows.

    Times are those of the run's record, in milliseconds since 1970; losses of epochs come as
    `training_loss` and `eval_loss`, totm as that of `run_stop`.
    """
    for point in results.points:
        if point.totm is None or point.started is None:
            continue
        start = datetime.fromisoformat(point.started).timestamp()

        def line(
            seconds: float, kind: str, key: str, value: Any, start: float = start, **metadata: Any
        ) -> str:
            content = {
                "namespace": "dhhpc",
                "time_ms": round(1000 * (start + seconds)),
                "event_type": kind,
                "key": key,
                "value": value,
                "metadata": metadata,
            }
            return f":::MLLOG {json.dumps(content)}"

        yield line(0, "POINT_IN_TIME", "submission_benchmark", results.study.name, run=point.run)
        for key, value in described(point, results).items():
            yield line(0, "POINT_IN_TIME", key, value)
        yield line(0, "INTERVAL_START", "run_start", None)
        for epoch in point.curve:
            yield line(epoch.seconds, "INTERVAL_END", "epoch_stop", None, epoch_num=epoch.epoch)
            for key, loss in (("training_loss", epoch.training_loss), ("eval_loss", epoch.validation_loss)):
                if loss is not None:
                    yield line(epoch.seconds, "POINT_IN_TIME", key, loss, epoch_num=epoch.epoch)
        yield line(point.totm, "INTERVAL_END", "run_stop", None, status="success", totm_seconds=point.totm)


def described(point: Point, results: Results) -> dict[str, Any]:
    """What of a run others want to know before its times."""
    return {
        "variant": point.variant,
        "number_of_ranks": point.ranks,
        "threads_per_rank": point.threads,
        **({"number_of_nodes": point.nodes} if on_several(results) else {}),
        "seed": results.experiment.get("seed"),
        "train_samples": point.samples,
        "epoch_count": point.epochs,
    }


GAUGES: dict[str, tuple[str, str]] = {
    "totm": ("dhhpc_totm_seconds", "Time of training models: the median over the runs of a point."),
    "speed_up": ("dhhpc_speed_up_ratio", "How many times faster than the base of the study."),
    "efficiency": ("dhhpc_efficiency_ratio", "Speed-up divided by ranks."),
    "samples_per_second": ("dhhpc_samples_per_second", "Training samples a second, over all ranks."),
    "core_seconds": ("dhhpc_core_seconds", "totm times ranks times threads."),
    "joules": ("dhhpc_energy_joules", "Energy of the run, where it is known."),
    "target_seconds": ("dhhpc_target_seconds", "Time to the study's target, where it was reached."),
    "runs": ("dhhpc_runs", "Finished runs of a point."),
}


def prometheus(results: Results) -> str:
    """The rows of a study as gauges in Prometheus' text format 0.0.4, for node_exporter's textfile collector
    or a push gateway. What is unknown is left out."""
    lines = []
    for field, (name, about) in GAUGES.items():
        values = [(row, getattr(row, field)) for row in results.rows]
        known = [(row, value) for row, value in values if value is not None]
        if known:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{labels(results, row)}}} {value!r}" for row, value in known]
    return "".join(f"{line}\n" for line in lines)


def labels(results: Results, row: Row) -> str:
    values = {
        "study": results.study.name,
        "variant": row.variant,
        "ranks": str(row.ranks),
        "threads": str(row.threads),
    }
    if on_several(results):
        values["nodes"] = str(row.nodes)
    return ",".join(f'{name}="{escaped(value)}"' for name, value in values.items())


def on_several(results: Results) -> bool:
    """Whether the study tells numbers of nodes apart."""
    return len({row.nodes for row in results.rows}) > 1


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
