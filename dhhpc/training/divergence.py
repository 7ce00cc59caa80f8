"""What is told of a loss that is no number: where it happened, and what to do."""

from __future__ import annotations

from pathlib import Path

from dhhpc.data.loader import Batch, Loader
from dhhpc.eddl import NotFiniteError
from dhhpc.mpi import World


def in_batch(
    error: NotFiniteError, epoch: int, number: int, batch: Batch, loader: Loader, world: World
) -> NotFiniteError:
    """`error` with the epoch, the batch (both from 0), the rank of several, and the image if one is bad."""
    rank = f" on rank {world.rank} of {world.size}" if world.size > 1 else ""
    return error.told(f"epoch {epoch + 1}, batch {number + 1}{rank}: {error}{image(error, batch, loader)}")


def image(error: NotFiniteError, batch: Batch, loader: Loader) -> str:
    """The image that brought the first bad number into a batch, if one did."""
    if error.sample is None:
        return ""
    per_image = loader.patch.per_image if loader.patch else 1
    name = loader.shards.identifiers(loader.split)[int(batch.indices[error.sample]) // per_image]
    return f", {loader.split} image {name} of {loader.shards.folder}"


def with_mend(error: NotFiniteError, last: Path | None) -> str:
    """The line for the user.

    Args:
        last: the newest checkpoint, which is not newer than the last finite state, if there is one.
    """
    cure = "lower optimizer.learning_rate" if error.sample is None else "mend the image or leave it out"
    if last is None:
        return f"{error}; {cure} and start again (there is no checkpoint yet)"
    return f"{error}; {cure} and go on with --resume from the last good checkpoint, {last}"
