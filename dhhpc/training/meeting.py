"""Where ranks wait for each other, and agree on what one of them has to say."""

from __future__ import annotations

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import World


class Meeting:
    """Ranks meet before they average.

    One message of two numbers serves as the barrier that separates waiting from communication, passes on a
    request to stop (a signal may reach one rank only), and stops all ranks when one has met a loss that is
    no number, before it is averaged into the others.

    Attributes:
        stop_requested: set by this rank.
        stop_agreed: set on every rank by the first meeting after a request.
        trouble: set by a rank that cannot go on; one line.
        wait_seconds: spent waiting for other ranks; part of the world's `seconds`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stop_requested = False
        self.stop_agreed = False
        self.trouble: str | None = None
        self.wait_seconds = 0.0

    def meet(self) -> None:
        """Wait for all ranks.

        Raises:
            DhhpcError: a rank is in trouble; the same line on every rank.
        """
        flags = np.array([self.stop_requested, self.trouble is not None], dtype=np.int64)
        if self.world.size > 1:
            before = self.world.seconds
            self.world.allreduce_max(flags)
            self.wait_seconds += self.world.seconds - before
        if flags[1]:
            raise DhhpcError(next(line for line in self.world.allgather_object(self.trouble) if line))
        self.stop_agreed = bool(flags[0])
