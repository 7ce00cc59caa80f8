"""Where ranks wait for each other, and agree on what one of them has to say."""

from __future__ import annotations

from collections import deque

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import Pending, World


class AgreedError(DhhpcError):
    """All ranks have raised this, in the same place, so that they may go on to send each other something."""


class Meeting:
    """Ranks meet before they average.

    One message of two numbers serves as the barrier that separates waiting from communication, passes on a
    request to stop (a signal may reach one rank only), and stops all ranks when one has met a loss that is
    no number, before it is averaged into the others.

    Between meetings ranks ask each other after every batch, without waiting for the answer. When one has
    news, they agree on a batch that none has passed yet, and meet after it.

    Attributes:
        stop_requested: set by this rank.
        stop_agreed: set on every rank by the first meeting after a request.
        trouble: set by a rank that cannot go on, in any thread of it; one line.
        batches: that this rank has trained on, for all of them to count alike.
        asks: whether ranks ask between meetings. Not where some wait for some others there: a rank that hears
            news waits for all to hear them.
        due: the number of batches after which all ranks meet because one has news; None without any.
        wait_seconds: spent waiting for other ranks; part of the world's `seconds`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stop_requested = False
        self.stop_agreed = False
        self.trouble: str | None = None
        self.batches = 0
        self.asks = True
        self.due: int | None = None
        self.wait_seconds = 0.0
        self._questions: deque[Pending] = deque()

    def hear(self, line: str) -> None:
        """This rank is in trouble, says any thread of it; the first line counts."""
        self.trouble = self.trouble or line

    def ask(self) -> bool:
        """After a batch without a meeting, but the last of an epoch: whether all ranks have to meet now."""
        if self.world.size == 1:
            return bool(self._news().any())
        if not self.asks:
            return False
        self._questions.append(self.world.begin_max(self._news()))
        while self._questions and self._questions[0].arrived():
            self._hear()
        return self.due == self.batches

    def meet(self) -> None:
        """Wait for all ranks.

        Raises:
            AgreedError: a rank is in trouble; the same line on every rank.
        """
        flags = self._news()
        if self.world.size > 1:
            before = self.world.seconds
            with self.world.timeline.section("meeting", "wait"):
                while self._questions:
                    # In order: with the first news, other ranks wait for this one before they ask again.
                    self._questions[0].wait()
                    self._hear()
                self.world.allreduce_max(flags)
            self.wait_seconds += self.world.seconds - before
        self.due = None
        if flags[1]:
            raise AgreedError(next(line for line in self.world.allgather_object(self.trouble) if line))
        self.stop_agreed = bool(flags[0])

    def _news(self) -> np.ndarray:
        return np.array([self.stop_requested, self.trouble is not None], dtype=np.int64)

    def _hear(self) -> None:
        """The answer to the oldest question: where it is news, ask how far the fastest rank has come."""
        news = self._questions.popleft().array.any()
        if news and self.due is None:
            furthest = np.array([self.batches])
            self.world.allreduce_max(furthest)
            self.due = int(furthest[0])
