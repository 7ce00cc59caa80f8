"""One world of ranks at a time that writes into a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.locks import sole_use
from dhhpc.mpi.world import World


@contextlib.contextmanager
def alone_in(folder: Path, world: World, say: Callable[[str], None]) -> Iterator[None]:
    """While inside, no other world has `folder`, see `sole_use`. All ranks call this.

    Args:
        say: hears, on rank 0, a line when there is somebody to wait for.

    Raises:
        DhhpcError: another one has it; on all ranks alike.
    """
    with contextlib.ExitStack() as stack:
        refused: DhhpcError | None = None
        if world.rank == 0:
            try:
                stack.enter_context(sole_use(folder, say))
            except DhhpcError as error:
                refused = error
        refused = world.broadcast_object(refused)
        if refused is not None:
            raise refused
        yield
