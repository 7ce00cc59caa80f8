"""What training changes, into a model and out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.eddl.graph import Array
from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.eddl.model import Model


def state_views(model: Model) -> dict[str, Array]:
    """Everything that training changes, by name: arrays of the model, and the values of its numbers."""
    optimizer = model.optimizer
    state = {f"parameters/{name}": array for name, array in model.parameters().items()}
    state["random/seed"] = np.array(model.randomness.seed, np.uint64)
    if optimizer is not None:
        state["optimizer/state"] = optimizer.state_vector
        state["optimizer/step_count"] = np.array(optimizer.step_count, np.int64)
        state["optimizer/learning_rate"] = np.array(optimizer.learning_rate, np.float64)
    return state


def load_state(model: Model, state: dict[str, Array], what: str) -> None:
    """See `Model.load_state`."""
    named = {f"parameters/{name}": array for name, array in model.parameters().items()}
    if model.optimizer is not None and "optimizer/state" in state:
        named["optimizer/state"] = model.optimizer.state_vector
    given = {name for name in state if name.startswith("parameters/")}
    strange = sorted(given.symmetric_difference(name for name in named if name.startswith("parameters/")))
    if strange:
        raise DhhpcError(
            f"{what}: {strange[0]} is on one side only; load it into the network it was saved from"
        )
    for name, array in named.items():
        if state[name].shape != array.shape:
            raise DhhpcError(f"{what}: {name} has shape {state[name].shape}, the network {array.shape}")
    for name, array in named.items():
        array[...] = state[name]
    if "random/seed" in state:  # not in files of version 0.1
        model.randomness.seed = int(state["random/seed"])
    if model.optimizer is not None and "optimizer/step_count" in state:
        model.optimizer.step_count = int(state["optimizer/step_count"])
        model.optimizer.learning_rate = float(state["optimizer/learning_rate"])


def read_state(path: Path | str) -> dict[str, Array]:
    """What `Model.save` wrote.

    Raises:
        DhhpcError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DhhpcError(f"{path}: no such file; check the path") from None
    except Exception as error:  # zipfile, zlib and numpy each raise their own for a damaged archive
        raise DhhpcError(f"{path}: damaged or no saved model ({error}); use another copy") from None
