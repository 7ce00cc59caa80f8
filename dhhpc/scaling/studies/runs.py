"""From a finished run folder to a point of the study."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from dhhpc.errors import DhhpcError
from dhhpc.scaling import kpis
from dhhpc.scaling.energy import energy_of
from dhhpc.scaling.studies.results import Epoch, Machine, Meetings, Point, TimeSplit
from dhhpc.scaling.studies.study import Target
from dhhpc.scaling.studies.tasks import Task, layout
from dhhpc.training.run_record import EVENTS, RECORD, RunRecord, read_run


def is_finished(folder: Path) -> bool:
    """Whether `folder` holds the record of a run that came to its end."""
    if not (folder / RECORD).is_file():
        return False
    return bool(read_run(folder).content["status"] == "finished")


def failed_point(task: Task, error: str) -> Point:
    """A point whose training has failed."""
    return Point(
        ranks=task.ranks,
        repeat=task.repeat,
        variant=task.variant,
        threads=task.threads,
        nodes=task.nodes,
        run=task.run,
        status="failed",
        error=error,
    )


def read_point(folder: Path, task: Task, target: Target | None = None) -> Point:
    """The point that the finished run of `task` below `folder` measured.

    Raises:
        DhhpcError: the record is missing or lacks what the point needs; the ranks were on other nodes than
            the point's; or validation had no such metric as the target's.
    """
    run = task.run
    record = read_run(folder / run)
    content = record.content
    # Of a job that runs a study, SLURM would tell the energy of all points together.
    joules, energy = energy_of(folder / run, content | {"slurm_job_id": None})
    try:
        check_nodes(folder / run, content, task)
        experiment, history = content["experiment"], content["history"]
        patch = experiment["data"].get("patch")
        samples = content["samples"]["training"] * (patch["per_image"] if patch else 1) * len(history)
        totm, ranks, threads = content["kpis"]["totm"], content["ranks"], content["threads"]
        return Point(
            ranks=ranks,
            repeat=task.repeat,
            variant=task.variant,
            nodes=task.nodes,
            run=run,
            status="finished",
            started=content["started"],
            threads=threads,
            epochs=len(history),
            samples=samples,
            totm=totm,
            samples_per_second=kpis.samples_per_second(samples, totm),
            core_seconds=kpis.core_seconds(totm, ranks, threads),
            split=split_of(history, totm),
            meetings=meetings_of(content),
            joules=joules,
            energy=energy,
            curve=curve_of(record, history),
            target_seconds=target_seconds(record, history, target),
            test=test_metrics(record),
            versions=content["versions"] | ({"commit": content["commit"]} if content.get("commit") else {}),
            machine=Machine(
                hosts=content["hosts"],
                cpu=content["processor"],
                cores=content.get("cores"),
                memory_gib=content.get("memory_gib"),
                load=content.get("load", {}),
                binding=content.get("binding", []),
            ),
        )
    except (KeyError, TypeError) as error:
        raise DhhpcError(
            f"{folder / run / RECORD}: lacks {error}; delete the run folder and run the study again"
        ) from None


def check_nodes(run: Path, content: dict[str, Any], task: Task) -> None:
    """Refuse a run whose ranks were not spread as its point is.

    Raises:
        DhhpcError: they were on other numbers of nodes, or not equally many on each.
    """
    if task.nodes is None:
        return
    held = Counter(
        content.get("nodes_of_ranks") or (each.rpartition(":")[0] for each in content["processes"])
    )
    if len(held) != task.nodes or set(held.values()) != {task.ranks_per_node}:
        spread = ", ".join(f"{count} on {node}" for node, count in sorted(held.items()))
        raise DhhpcError(
            f"{run}: ranks were placed {spread}, where {layout(task.ranks, task.nodes, None)} are measured; "
            f"delete the run folder, and measure it with `dhhpc submit scale`"
        )


def split_of(history: list[dict[str, Any]], totm: float) -> TimeSplit:
    """Where totm went: means over the ranks of the sums over the epochs, and what remains."""

    def mean_over_ranks(name: str) -> float:
        return sum(fmean(rank[name] for rank in epoch["ranks"]) for epoch in history)

    parts = {name: mean_over_ranks(name) for name in ("data", "compute", "communication", "wait")}
    for name in ("validation", "checkpoint"):
        parts[name] = sum(epoch.get(f"{name}_seconds", 0.0) for epoch in history)
    return TimeSplit(**parts, other=max(0.0, totm - sum(parts.values())))


def meetings_of(content: dict[str, Any]) -> Meetings:
    """How often the ranks met and what one brought, from the record of rank 0."""
    history, nodes = content["history"], len(content["hosts"])
    by_nodes = content["experiment"]["parallel"].get("hierarchy") == "nodes" and content["ranks"] > nodes
    brought = "bytes_in_node" if by_nodes else "bytes_sent"
    return Meetings(
        nodes=nodes,
        by_nodes=by_nodes,
        batches=sum(epoch["batches"] for epoch in history),
        averagings=sum(epoch["averagings"] for epoch in history),
        bytes=sum(epoch[brought] for epoch in history),
    )


def curve_of(record: RunRecord, history: list[dict[str, Any]]) -> list[Epoch]:
    """The loss after each epoch, with the wall time since the run's start that its log of events tells."""
    start, ends = None, {}
    for line in (record.folder / EVENTS).read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "start":
            start = datetime.fromisoformat(event["time"])
        elif event["event"] == "epoch":
            ends[event["epoch"]] = datetime.fromisoformat(event["time"])
    if start is None:
        return []
    return [
        Epoch(
            epoch=epoch["epoch"] + 1,
            seconds=(ends[epoch["epoch"]] - start).total_seconds(),
            training_loss=epoch["loss"],
            validation_loss=epoch.get("validation", {}).get("loss"),
        )
        for epoch in history
    ]


def target_seconds(record: RunRecord, history: list[dict[str, Any]], target: Target | None) -> float | None:
    """From the start of training to the end of the first epoch that reaches `target`; None if none does.

    Raises:
        DhhpcError: validation has no such metric.
    """
    if target is None:
        return None
    for epoch, point in zip(history, curve_of(record, history), strict=True):
        known = epoch.get("validation", {})
        if target.metric not in known:
            numbers = ", ".join(sorted(name for name, value in known.items() if isinstance(value, float)))
            raise DhhpcError(
                f"target.metric {target.metric!r} of the study: validation measures {numbers or 'nothing'}"
            )
        if known[target.metric] >= target.value:
            return point.seconds
    return None


def test_metrics(record: RunRecord) -> dict[str, float]:
    """The single numbers among the metrics of the test split; empty before the run was evaluated on it."""
    return {
        name: value
        for name, value in record.metrics().get("test", {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
