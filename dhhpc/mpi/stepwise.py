"""Collectives of several steps that go on while a rank computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from dhhpc.mpi.world import Pending, World

# Yields the mpi4py request of one step after the other, and goes on when that one has completed.
Steps = Iterator[Any]


class Stepwise(Pending):
    """One of a `Line`.

    Attributes:
        begun: how many of its steps have begun.
        done: whether all have completed.
    """

    def __init__(self, line: Line, steps: Steps, number: int | None) -> None:
        self.line, self.steps, self.number = line, steps, number
        self.begun, self.done = 0, False
        self.request: Any = None

    def step(self) -> None:
        """Begin the next step, or end."""
        self.request = next(self.steps, None)
        self.begun += 1
        if self.request is None:
            self.done = True
            self.line.world.timeline.end(self.number)

    def arrived(self) -> bool:
        if not self.done:
            self.line.advance()
        return self.done

    def wait(self) -> None:
        self.line.finish(self)


class Line:
    """Collectives on their way, in the order in which all ranks began them.

    MPI matches what ranks begin on a communicator by its order, and ranks find requests completed at times
    of their own. So every kind of step has a communicator to itself, and no collective of the line begins a
    step before the one ahead of it has begun that step.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.under_way: deque[Stepwise] = deque()

    def begin(self, steps: Steps, array_bytes: int, counted: int | None) -> Stepwise:
        """Take the first of `steps`.

        Args:
            array_bytes: of the array that comes out, for the timeline.
            counted: bytes by which to count one message; None for no message.
        """
        timeline = self.world.timeline
        each = Stepwise(self, steps, timeline.begin(self.name, time.perf_counter(), array_bytes))
        with self.world.inside(f"begin_{self.name}", counted):
            each.step()
            self.under_way.append(each)
            self._advance()
        return each

    def advance(self) -> None:
        """Begin the steps that can begin now."""
        started = time.perf_counter()
        self._advance()
        ended = time.perf_counter()
        self.world.seconds += ended - started
        self.world.timeline.collective(f"test_{self.name}", started, ended, None)

    def finish(self, last: Stepwise) -> None:
        """Until `last`, and what is ahead of it, is done."""
        with self.world.inside(f"wait_for_{self.name}"):
            while not last.done:
                self.world.wait_for(self.under_way[0].request)
                self.under_way[0].step()
                self._advance()

    def _advance(self) -> None:
        ahead: Stepwise | None = None
        for each in self.under_way:
            while not each.done and (ahead is None or ahead.done or each.begun < ahead.begun):
                if not each.request.Test():
                    break
                each.step()
            ahead = each
        while self.under_way and self.under_way[0].done:
            self.under_way.popleft()
