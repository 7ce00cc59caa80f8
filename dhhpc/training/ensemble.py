"""The members of a series together: loaded and evaluated as an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dhhpc.data.shards import ShardSet
from dhhpc.data.staged_copy import Staged
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.mpi import World
from dhhpc.training.evaluation import evaluate
from dhhpc.training.metrics import without_details
from dhhpc.training.network import CreateNetwork, Ensemble, load_network
from dhhpc.training.run_record import read_run
from dhhpc.training.series import Series

ENSEMBLE = "ensemble.json"


def load_ensemble(
    series: Series, create: CreateNetwork, staged: Staged | None = None
) -> tuple[Ensemble, ShardSet]:
    """All members of a series, and the shards they were trained on (or their copy on this node), with the
    splits that these have.

    Raises:
        DhhpcError: a member is not finished; or as `load_network`.
    """
    for member in series.members:
        status = series.status(member)
        if status != "finished":
            raise DhhpcError(f"{member.folder}: is {status}, and an ensemble needs all members; --resume it")
    models = [load_network(read_run(member.folder), create, staged)[0] for member in series.members]
    return Ensemble(models), series.experiment.data.open(staged)


def evaluate_series(
    series: Series,
    split: str,
    world: World,
    create: CreateNetwork,
    spatial: bool = False,
    staged: Staged | None = None,
) -> None:
    """Evaluate each member and the ensemble; leaves the metrics with the members and in ensemble.json.

    Raises:
        DhhpcError: as `load_ensemble` and `evaluate`; or the members are folds, and all but one have been
            trained on the images of the split.
    """
    if series.folds and split != "test":
        raise DhhpcError(
            f"--split {split}: most folds were trained on these images; evaluate the test split (each fold's "
            f"own validation is shown by `dhhpc runs show {series.folder}`)"
        )
    ensemble, shards = load_ensemble(series, create, staged)
    for member, model in zip(series.members, ensemble.models, strict=True):
        metrics = evaluate(model, shards, split, world, spatial)
        if world.rank == 0:
            read_run(member.folder).write_metrics(split, metrics)
    metrics = evaluate(ensemble, shards, split, world, spatial)
    if world.rank == 0:
        path = series.folder / ENSEMBLE
        earlier = read_json(path) if path.exists() else {}
        write_json(path, earlier | {split: {"members": finishing_times(series), "metrics": metrics}})


def ensemble_metrics(series: Series) -> dict[str, dict[str, Any]]:
    """The metrics of the ensemble by split, where it was evaluated with the members that there are now."""
    path: Path = series.folder / ENSEMBLE
    if not path.exists():
        return {}
    members = finishing_times(series)
    return {
        split: without_details(found["metrics"])
        for split, found in read_json(path).items()
        if found["members"] == members
    }


def finishing_times(series: Series) -> dict[str, str | None]:
    """When each member was finished; None for one that is not."""
    return {
        member.name: read_run(member.folder).content["finished"]
        if series.status(member) == "finished"
        else None
        for member in series.members
    }
