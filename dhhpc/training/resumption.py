"""Going on with an earlier run: the same experiment, from its newest whole checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.eddl import Model
from dhhpc.eddl.graph import Array
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.averaging import UNSENT_GRADIENTS, UNSENT_PARAMETERS, Averaging
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder
from dhhpc.training.experiment import Experiment, differences
from dhhpc.training.run_record import RECORD, RunRecord, read_run

# What may change between a run and its resumption without changing what is computed.
FREE_KEYS = (
    "epochs",
    "threads",
    "memory",
    "output",
    "name",
    "checkpoint",
    "data.shards",
    "data.threads",
    "watch",
    "trace",
)
# A run that failed has no result to be reproduced: smaller steps may bring a diverged one back.
FREE_AFTER_FAILURE = ("optimizer.learning_rate",)
OPTIMIZER = "optimizer/state"


def take_up(
    record: RunRecord,
    folder: CheckpointFolder,
    experiment: Experiment,
    model: Model,
    method: Averaging,
    world: World,
    warn: Callable[[str], None],
) -> tuple[dict[str, Any], Checkpoint | None]:
    """Load the run in `record.folder` into `model` and `method`, on every rank.

    What all ranks agree upon is read by rank 0 alone, what each has of its own by itself. On another number
    of ranks all go on from what was agreed upon, with the mean of what the optimizers of the ranks
    remembered, and each with an equal part of what compression has left over. An epoch goes on with the
    samples that nobody has taken.

    Args:
        warn: hears one line about each damaged checkpoint.

    Returns:
        What run.json keeps of the earlier run, and the checkpoint without its arrays; None if the run has no
        whole one and starts again.

    Raises:
        DhhpcError: the run there is another experiment.
    """
    problem, kept, paths = None, {}, []
    if world.rank == 0:
        paths = folder.descriptions()
        try:
            if (record.folder / RECORD).exists():
                earlier = read_run(record.folder).content
                for key in check_same(record, earlier, experiment):
                    warn(f"{record.folder}: the run there failed; going on with another {key}")
                kept = {"started": earlier["started"], "resumed": earlier["resumed"] + 1}
        except DhhpcError as error:
            problem = str(error)
    problem, kept, paths = world.broadcast_object((problem, kept, paths))
    if problem:
        raise DhhpcError(problem)
    checkpoint = None
    for path in reversed(paths):
        checkpoint = load(folder, path, model, method, world, warn)
        if checkpoint is not None:
            break
    return kept, checkpoint


def load(
    folder: CheckpointFolder,
    path: Path,
    model: Model,
    method: Averaging,
    world: World,
    warn: Callable[[str], None],
) -> Checkpoint | None:
    """One checkpoint into the model and method of every rank; None, and a warning, if it is damaged.

    Raises:
        DhhpcError: it is that of another network.
    """
    damage, problem = None, None
    checkpoint: Checkpoint | None = None
    state: dict[str, Array] = {}
    own: dict[str, Array] = {}
    if world.rank == 0:
        try:
            checkpoint = folder.load(path)
            state, checkpoint.state = checkpoint.state, {}
            if checkpoint.parts and checkpoint.ranks != world.size:
                totals = totals_over_ranks(folder, checkpoint)
                if OPTIMIZER in totals:
                    state[OPTIMIZER] = (totals.pop(OPTIMIZER) / checkpoint.ranks).astype(np.float32)
                own = {name: (total / world.size).astype(np.float32) for name, total in totals.items()}
        except DhhpcError as error:
            damage, checkpoint = str(error), None
    checkpoint = world.broadcast_object(checkpoint)
    if checkpoint is not None and checkpoint.parts and checkpoint.ranks == world.size:
        try:
            own = folder.load_own(checkpoint, world.rank)
        except DhhpcError as error:
            damage = str(error)
    damages = [line for line in world.allgather_object(damage) if line]
    if damages:
        warn(f"{damages[0]}; going on from the checkpoint before it")
        return None
    if world.rank == 0:
        try:
            model.load_state(state, str(path))
        except DhhpcError as error:
            problem = str(error)
    problem = world.broadcast_object(problem)
    if problem:
        raise DhhpcError(problem)
    share_model(model, world)
    if checkpoint.ranks != world.size:
        own = world.broadcast_object(own)
    method.begin()
    for name, array in method.remembered().items():
        if world.rank == 0:
            array[...] = state[f"averaging/{name}"]
        world.broadcast(array)
    if own:
        method.load_own_state(own)
    return checkpoint


def totals_over_ranks(folder: CheckpointFolder, checkpoint: Checkpoint) -> dict[str, Array]:
    """The sums, in float64, of what the optimizers of a checkpoint's ranks remembered, and of what
    compression has left over, by name where ranks have them.

    Raises:
        DhhpcError: a rank's file is damaged.
    """
    totals: dict[str, Array] = {}
    for rank in range(checkpoint.ranks):
        own = folder.load_own(checkpoint, rank)
        for name in (OPTIMIZER, UNSENT_GRADIENTS, UNSENT_PARAMETERS):
            if name in own:
                totals[name] = own[name].astype(np.float64) + totals.get(name, 0)
    return totals


def share_model(model: Model, world: World) -> None:
    """Give every rank the parameters, statistics and optimizer state of rank 0."""
    optimizer = model.optimizer
    assert optimizer is not None
    for vector in (model.parameter_vector, model.statistics_vector, optimizer.state_vector):
        if vector.size:
            world.broadcast(vector)
    shared = world.broadcast_object((optimizer.step_count, model.randomness.seed))
    optimizer.step_count, model.randomness.seed = shared


def changed_keys(earlier: dict[str, Any], experiment: Experiment) -> list[str]:
    """The dotted keys, of those that decide what is computed, at which an earlier record's experiment differs
    from `experiment`."""
    return [
        key
        for key in differences(earlier["experiment"], experiment.model_dump(mode="json"))
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)
    ]


def check_same(record: RunRecord, earlier: dict[str, Any], experiment: Experiment) -> list[str]:
    """Refuse to continue another experiment; returns the keys that may differ because the run failed."""
    changed = changed_keys(earlier, experiment)
    allowed = FREE_AFTER_FAILURE if earlier["status"] == "failed" else ()
    refused = [key for key in changed if key not in allowed]
    if refused:
        raise DhhpcError(
            f"{record.folder}: the run there was started with another {refused[0]}; set it back to resume, "
            f"or choose another folder with --output"
        )
    return changed
