"""Going on with an earlier run: the same experiment, from its newest whole checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.eddl import Model
from dhhpc.eddl.state import state_views
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.averaging import UNSENT_GRADIENTS, UNSENT_PARAMETERS, Averaging
from dhhpc.training.checkpoint import (
    OPTIMIZER_STATE,
    Checkpoint,
    CheckpointFolder,
    EarlierFormatError,
    Part,
)
from dhhpc.training.experiment import Experiment, differences
from dhhpc.training.layout import Array
from dhhpc.training.run_record import RECORD, RunRecord, read_run

# Numbers that are sent or averaged at once: an MPI before version 4 counts to 2**31.
BLOCK = 2**24
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


def checkpoint_state(
    model: Model, method: Averaging
) -> tuple[dict[str, Array], dict[str, Array], contextlib.AbstractContextManager[None]]:
    """What goes into a checkpoint, see `CheckpointWriter.begin`: what all ranks agree upon, what this rank
    has of its own, and inside of what they agree."""
    own = method.own_state()
    agreed = state_views(model)
    if OPTIMIZER_STATE in own:  # upon which nobody agrees
        del agreed[OPTIMIZER_STATE]
    agreed |= {f"averaging/{name}": array for name, array in method.remembered().items()}
    return agreed, own, method.agreed()


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

    Each rank reads the part that it has written, and sends the others the shard in it of what all agree upon.
    Other ranks than before share the parts among them: all go on from what was agreed upon, with the mean of
    what the optimizers of the ranks remembered, and each with an equal part of what compression has left
    over. An epoch goes on with the samples that nobody has taken.

    Args:
        warn: hears one line about each damaged checkpoint.

    Returns:
        What run.json keeps of the earlier run, and the checkpoint; None if the run has no whole one and
        starts again.

    Raises:
        DhhpcError: the run there is another experiment, or its newest checkpoint of an earlier version.
    """
    problem, kept, paths = None, {}, []
    if world.rank == 0:
        try:
            if (record.folder / RECORD).exists():
                earlier = read_run(record.folder).content
                for key in check_same(record, earlier, experiment):
                    warn(f"{record.folder}: the run there failed; going on with another {key}")
                kept = {"started": earlier["started"], "resumed": earlier["resumed"] + 1}
            folder.remove_left_overs()
            paths = folder.descriptions()
        except DhhpcError as error:
            problem = str(error)
    problem, kept, paths = world.broadcast_object((problem, kept, paths))
    if problem:
        raise DhhpcError(problem)
    for path in reversed(paths):
        checkpoint, damage = checked(folder, path, world)
        if checkpoint is not None:
            load(folder, checkpoint, model, method, world)
            return kept, checkpoint
        warn(f"{damage}; going on from the checkpoint before it")
    return kept, None


def checked(folder: CheckpointFolder, path: Path, world: World) -> tuple[Checkpoint | None, str]:
    """A checkpoint's description, on every rank, once the ranks have read and checked all its parts; or else
    None and the line about the damage, for which it is set aside.

    Raises:
        EarlierFormatError: it is of an earlier version, on all ranks alike.
    """
    checkpoint, damage, problem = None, None, None
    if world.rank == 0:
        try:
            checkpoint = folder.load(path)
        except EarlierFormatError as error:
            problem = str(error)
        except DhhpcError as error:
            damage = str(error)
    checkpoint, problem = world.broadcast_object((checkpoint, problem))
    if problem:
        raise EarlierFormatError(problem)
    try:
        for part in parts_of(checkpoint, world) if checkpoint else []:
            folder.check(checkpoint, part)
    except DhhpcError as error:
        damage = str(error)
    damages = [line for line in world.allgather_object(damage) if line]
    if not damages:
        return checkpoint, ""
    if world.rank == 0:
        folder.set_aside(path)
    return None, damages[0]


def parts_of(checkpoint: Checkpoint, world: World) -> list[Part]:
    """Those that this rank reads: its own, and its share of those of ranks that are no more."""
    return [part for part in checkpoint.parts if part.rank % world.size == world.rank]


def load(
    folder: CheckpointFolder, checkpoint: Checkpoint, model: Model, method: Averaging, world: World
) -> None:
    """A whole checkpoint into the model and method of every rank. Each byte is read by one of them.

    Raises:
        DhhpcError: it is that of another network.
    """
    row = np.empty(checkpoint.agreed.size, np.uint8)
    for part in checkpoint.parts:
        shard = row[part.start : part.stop]
        reader = part.rank % world.size
        if reader == world.rank:
            folder.read(checkpoint, part, 0, shard)
        for first in range(0, len(shard), BLOCK):
            world.broadcast(shard[first : first + BLOCK], root=reader)
    state = checkpoint.agreed.views(row)
    same_ranks = checkpoint.ranks == world.size
    if OPTIMIZER_STATE in checkpoint.own.entries and not same_ranks:
        state[OPTIMIZER_STATE] = over_ranks(folder, checkpoint, world, OPTIMIZER_STATE, checkpoint.ranks)
    model.load_state(state, str(folder.description(checkpoint)))
    method.begin()
    for name, array in method.remembered().items():
        array[...] = state[f"averaging/{name}"]
    if checkpoint.own.entries and same_ranks:
        (part,) = parts_of(checkpoint, world)
        method.load_own_state(folder.own(checkpoint, part))
    elif not same_ranks:
        method.load_own_state(
            {
                name: over_ranks(folder, checkpoint, world, name, world.size)
                for name in (UNSENT_GRADIENTS, UNSENT_PARAMETERS)
                if name in checkpoint.own.entries
            }
        )


def over_ranks(
    folder: CheckpointFolder, checkpoint: Checkpoint, world: World, name: str, divisor: int
) -> Array:
    """The sum of an array that each of a checkpoint's ranks had of its own, over `divisor`, on every rank."""
    entry = checkpoint.own.entries[name]
    mean = np.empty(entry.shape, np.float32)
    for first in range(0, mean.size, BLOCK):
        block = mean[first : first + BLOCK]
        total, one = np.zeros(block.size, np.float64), np.empty(block.size, np.float32)
        for part in parts_of(checkpoint, world):
            start = part.stop - part.start + entry.start + first * one.itemsize
            folder.read(checkpoint, part, start, one.view(np.uint8))
            total += one
        world.allreduce_sum(total)
        block[:] = total / divisor
    return mean


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
