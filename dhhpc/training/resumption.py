"""Going on with an earlier run: the same experiment, from its newest whole checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dhhpc.eddl import Model
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder
from dhhpc.training.experiment import Experiment, differences
from dhhpc.training.run_record import RECORD, RunRecord, read_run

# What may change between a run and its resumption without changing what is computed.
FREE_KEYS = ("epochs", "threads", "memory", "output", "name", "checkpoint", "data.shards", "data.threads")
# A run that failed has no result to be reproduced: smaller steps may bring a diverged one back.
FREE_AFTER_FAILURE = ("optimizer.learning_rate",)


def take_up(
    record: RunRecord,
    folder: CheckpointFolder,
    experiment: Experiment,
    model: Model,
    world: World,
    global_batch: int,
    warn: Callable[[str], None],
) -> tuple[dict[str, Any], Checkpoint | None]:
    """Load the run in `record.folder` into `model`, on every rank alike. Only rank 0 reads.

    Args:
        global_batch: samples a batch over all ranks now; `Checkpoint.batch` is converted to it.
        warn: hears one line about each damaged checkpoint.

    Returns:
        What run.json keeps of the earlier run, and the checkpoint without its arrays; None if the run has no
        whole one and starts again.

    Raises:
        DhhpcError: the run there is another experiment, or the checkpoint lies inside an epoch at a place
            that these ranks do not meet.
    """
    problem, kept, checkpoint = None, {}, None
    if world.rank == 0:
        try:
            if (record.folder / RECORD).exists():
                earlier = read_run(record.folder).content
                for key in check_same(record, earlier, experiment):
                    warn(f"{record.folder}: the run there failed; going on with another {key}")
                kept = {"started": earlier["started"], "resumed": earlier["resumed"] + 1}
            checkpoint = folder.newest(warn)
            if checkpoint is not None:
                model.load_state(checkpoint.state, str(folder.folder / checkpoint.name))
                checkpoint.state = {}
        except DhhpcError as error:
            problem = str(error)
    problem, kept, checkpoint = world.broadcast_object((problem, kept, checkpoint))
    if problem:
        raise DhhpcError(problem)
    if checkpoint is not None:
        share_model(model, world)
        seen = checkpoint.batch * checkpoint.global_batch
        if seen % global_batch:
            raise DhhpcError(
                f"{folder.folder / checkpoint.name}: lies inside an epoch of batches of "
                f"{checkpoint.global_batch} on {checkpoint.ranks} ranks, which batches of {global_batch} on "
                f"{world.size} ranks do not meet; resume on {checkpoint.ranks} ranks"
            )
        checkpoint.batch = seen // global_batch
    return kept, checkpoint


def share_model(model: Model, world: World) -> None:
    """Give every rank the parameters, statistics and optimizer state of rank 0."""
    optimizer = model.optimizer
    assert optimizer is not None
    for vector in (model.parameter_vector, model.statistics_vector, optimizer.state_vector):
        if vector.size:
            world.broadcast(vector)
    optimizer.step_count = world.broadcast_object(optimizer.step_count)


def check_same(record: RunRecord, earlier: dict[str, Any], experiment: Experiment) -> list[str]:
    """Refuse to continue another experiment; returns the keys that may differ because the run failed."""
    changed = [
        key
        for key in differences(earlier["experiment"], experiment.model_dump(mode="json"))
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    ]
    allowed = FREE_AFTER_FAILURE if earlier["status"] == "failed" else ()
    refused = [key for key in changed if key not in allowed]
    if refused:
        raise DhhpcError(
            f"{record.folder}: the run there was started with another {refused[0]}; set it back to resume, "
            f"or choose another folder with --output"
        )
    return changed
