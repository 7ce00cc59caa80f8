"""From run records to kinds of ranks, their pace and what it takes them to meet: all that was measured."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dhhpc.errors import DhhpcError
from dhhpc.mpi import share
from dhhpc.scaling.resources.allocation import Kind, Work, averaging_seconds
from dhhpc.training.experiment import differences
from dhhpc.training.run_record import RECORD, read_run
from dhhpc.training.splitting import TOLERANCE

# In what runs may differ and yet measure the same work.
FREE_KEYS = (
    "checkpoint",
    "data.shards",
    "epochs",
    "name",
    "output",
    "parallel.split",
    "schedule",
    "seed",
    "threads",
    "trace",
    "watch",
)


@dataclass(frozen=True)
class MeasuredRank:
    """One rank of a run: its number, host and cores, and its seconds for a sample and a validation image.

    Where it was so slow that it took no sample, `calibrated`, its pace is that of the calibration before."""

    run: Path
    number: int
    host: str
    cores: int
    pace: float
    validation_pace: float | None
    calibrated: bool


@dataclass(frozen=True)
class MeasuredRun:
    """What one run tells.

    Attributes:
        name: that of its nodes.
        epochs: how many count: those of its ranks but for the first, which is not like others.
        averaging_seconds: for each batch, of the rank that is the last to come and waits for nobody.
        epoch_seconds: of an epoch beside batches and validation.
        once_seconds: of the run beside its epochs.
        measured, modelled: the seconds of the batches of an epoch, and what paces and averaging make of them.
    """

    name: str
    folder: Path
    content: dict[str, Any]
    ranks: list[MeasuredRank]
    epochs: int
    averaging_seconds: float
    epoch_seconds: float
    once_seconds: float
    measured: float
    modelled: float


@dataclass(frozen=True)
class MeasuredKind:
    """Ranks that are alike; `name` is that of their runs, which may have several kinds."""

    name: str
    kind: Kind
    ranks: list[MeasuredRank]


def read_measured(folder: Path, name: str) -> MeasuredRun:
    """What the run in `folder` measured.

    Raises:
        DhhpcError: it is no run, or its record does not tell the pace of each rank; names the mend.
    """
    content = read_run(folder).content
    where = folder / RECORD
    if content["experiment"]["parallel"]["method"] == "spatial":
        raise DhhpcError(
            f"{where}: with parallel.method `spatial` all ranks share each image, and none has a pace of its "
            f"own; measure with another method"
        )
    try:
        count = content["ranks"]
        whole = [epoch for epoch in content["history"] if len(epoch["paces"]) == count]
        history = whole[1:] or whole
        if not history:
            raise DhhpcError(f"{where}: no whole epoch, so no measured pace; train an epoch or more")
        return MeasuredRun(
            name=name,
            folder=folder,
            content=content,
            ranks=ranks_of(content, history, folder),
            epochs=len(history),
            averaging_seconds=median(
                [least_of(epoch, "communication") / epoch["batches"] for epoch in history]
            ),
            epoch_seconds=median([beside_batches(epoch) for epoch in history]),
            once_seconds=max(0.0, content["kpis"]["totm"] - sum(map(whole_seconds, content["history"]))),
            measured=median([epoch["seconds"] for epoch in history]),
            modelled=median([modelled_seconds(epoch) for epoch in history]),
        )
    except (KeyError, TypeError) as error:
        raise DhhpcError(
            f"{where}: lacks {error}, so no measured pace; train again with this dhhpc, an epoch or more, "
            f"best with `parallel.split: measured`"
        ) from None


def ranks_of(content: dict[str, Any], history: Sequence[dict[str, Any]], run: Path) -> list[MeasuredRank]:
    """The ranks of a run, each with the median of its paces, which may be None in epochs without a sample."""
    images, count = content["samples"].get("validation", 0), content["ranks"]
    found = []
    for number, process in enumerate(content["processes"]):
        paces = [epoch["paces"][number]["seconds"] for epoch in history]
        known = [pace for pace in paces if pace is not None]
        calibrated = not known and content["experiment"]["parallel"]["split"] == "measured"
        if calibrated:
            # These weights are samples a second.
            known = [1 / epoch["weights"][number] for epoch in history]
        if not known:
            raise DhhpcError(
                f"{run / RECORD}: rank {number} took no sample, so its pace is not measured; train again "
                f"with more samples or fewer ranks"
            )
        validated = len(share(images, number, count))
        validation = median([epoch["ranks"][number]["validation"] for epoch in history])
        found.append(
            MeasuredRank(
                run=run,
                number=number,
                host=process.rpartition(":")[0],
                cores=content["threads_of_ranks"][number],
                pace=median(known),
                validation_pace=validation / validated if validated else None,
                calibrated=calibrated,
            )
        )
    return found


def kinds_of(runs: Sequence[MeasuredRun], by_node: bool) -> list[MeasuredKind]:
    """The ranks of runs in kinds: of one name in `runs`, of as many cores, and of like speed.

    A kind begins with the fastest rank that belongs to no other, and takes those that are at most a tenth
    slower; where a name has several kinds, they are numbered, the fastest first. As many of a kind are
    available as one run had.

    Args:
        by_node: ranks of a kind on one host are asked for together.
    """
    found = []
    for name in dict.fromkeys(run.name for run in runs):
        groups: list[list[MeasuredRank]] = []
        ranks = [rank for run in runs if run.name == name for rank in run.ranks]
        for rank in sorted(ranks, key=lambda rank: rank.pace):
            for group in groups:
                if rank.cores == group[0].cores and rank.pace <= TOLERANCE * group[0].pace:
                    group.append(rank)
                    break
            else:
                groups.append([rank])
        for number, group in enumerate(groups, start=1):
            largest, count = Counter(rank.run for rank in group).most_common(1)[0]
            hosts = Counter(rank.host for rank in group if rank.run == largest)
            together = max(hosts.values()) if by_node else 1
            validation = [rank.validation_pace for rank in group if rank.validation_pace is not None]
            pace = median([rank.pace for rank in group])
            kind = Kind(
                name=name if len(groups) == 1 else f"{name}-{number}",
                pace=pace,
                # Without a measurement, more than it takes: there is no backward pass.
                validation_pace=median(validation) if validation else pace,
                cores=group[0].cores,
                together=together,
                available=-(-count // together),
            )
            found.append(MeasuredKind(name, kind, group))
    return found


def with_watts(kind: Kind, busy: float, idle: float, part: float) -> Kind:
    """The kind with the watts of a rank, which has that part of what draws `busy` and `idle` watts."""
    return replace(kind, busy_watts=busy * part, idle_watts=idle * part)


def work_of(runs: Sequence[MeasuredRun], epochs: int | None = None) -> Work:
    """The work that all these runs did, for so many epochs or as many as the first one's experiment has.

    Raises:
        DhhpcError: they did not all train the same.
    """
    first = runs[0].content
    experiment = first["experiment"]
    for run in runs[1:]:
        changed = [
            key
            for key in differences(experiment, run.content["experiment"])
            if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
        ]
        if changed or run.content["samples"] != first["samples"]:
            what = changed[0] if changed else "number of samples"
            raise DhhpcError(
                f"{run.folder}: was trained with another {what} than {runs[0].folder}; compare runs of one "
                f"experiment"
            )
    patch = experiment["data"].get("patch")
    counts = {run.content["ranks"] for run in runs}
    averaging = {
        count: median([run.averaging_seconds for run in runs if run.content["ranks"] == count])
        for count in sorted(counts)
    }
    return Work(
        samples=first["samples"]["training"] * (patch["per_image"] if patch else 1),
        images=first["samples"].get("validation", 0),
        epochs=experiment["epochs"] if epochs is None else epochs,
        batch_size=experiment["batch_size"],
        divided=experiment["parallel"]["batch"] == "divide",
        meeting=partial(averaging_seconds, averaging),
        epoch_seconds=median([run.epoch_seconds for run in runs]),
        once_seconds=median([run.once_seconds for run in runs]),
    )


def least_of(epoch: dict[str, Any], what: str) -> float:
    return min(float(rank[what]) for rank in epoch["ranks"])


def whole_seconds(epoch: dict[str, Any]) -> float:
    """An epoch with validation and checkpoint."""
    beside = epoch.get("validation_seconds", 0.0) + epoch.get("checkpoint_seconds", 0.0)
    return float(epoch["seconds"] + beside)


def beside_batches(epoch: dict[str, Any]) -> float:
    """What rank 0 does in an epoch that is no work on batches, and the checkpoint."""
    first = epoch["ranks"][0]
    spent = sum(first[name] for name in ("data", "compute", "communication", "wait"))
    return max(0.0, float(epoch["seconds"] - spent)) + float(epoch.get("checkpoint_seconds", 0.0))


def modelled_seconds(epoch: dict[str, Any]) -> float:
    """The batches of an epoch as a forecast has them, with the samples that each rank took."""
    slowest = max(pace["samples"] * (pace["seconds"] or 0.0) for pace in epoch["paces"])
    return slowest + least_of(epoch, "communication")


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))
