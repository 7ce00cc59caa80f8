"""Where the time of a rank goes: for the record of an epoch, and for a timeline of its batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from dhhpc.mpi import Timeline, TraceFile, World
from dhhpc.training.meeting import Meeting


class Timing:
    """The seconds of this rank, and what it has sent.

    Args:
        traced: batches of each epoch whose timeline is wanted; 0 for none.
    """

    def __init__(self, world: World, meeting: Meeting, traced: int) -> None:
        self.world, self.meeting, self.traced = world, meeting, traced
        self.seconds = {"data": 0.0, "compute": 0.0, "validation": 0.0}
        self.before = world.messages, world.bytes_sent, world.bytes_in_node  # of runs before this one

    def trace_into(self, folder: Path) -> None:
        """Begin a file a rank in `folder`, if a timeline is wanted. All ranks call this."""
        if self.traced:
            self.world.timeline = TraceFile(folder / f"rank-{self.world.rank:05d}.json", self.world)

    def begin_batch(self, number: int) -> float:
        """The timeline of a batch, from 0 in its epoch, is recorded or left out; returns the time."""
        self.world.timeline.record(number < self.traced)
        return time.perf_counter()

    def end_batches(self) -> None:
        """What comes between the batches of two epochs is recorded."""
        self.world.timeline.record(True)

    def end(self) -> None:
        """The timeline is whole."""
        timeline, self.world.timeline = self.world.timeline, Timeline()
        timeline.close()

    @contextlib.contextmanager
    def of(self, category: str, name: str) -> Iterator[None]:
        """Count what is done inside; collectives count as communication even so."""
        started, sending = time.perf_counter(), self.world.seconds
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.seconds[category] += ended - started - (self.world.seconds - sending)
            self.world.timeline.span(name, category, started, ended)

    def clock(self) -> dict[str, float]:
        """Seconds of this rank so far; `validation` is without its collectives, which nothing else counts."""
        wait = self.meeting.wait_seconds
        return self.seconds | {"communication": self.world.seconds - wait, "wait": wait}

    def sent(self) -> dict[str, float]:
        """Messages and bytes of this rank in this run so far; without those that `bytes_in_node` tells."""
        messages, bytes_sent, bytes_in_node = self.before
        return {
            "messages": self.world.messages - messages,
            "bytes_sent": self.world.bytes_sent - bytes_sent,
            "bytes_in_node": self.world.bytes_in_node - bytes_in_node,
        }


def since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """What has been added, to a tenth of a millisecond."""
    return {name: round(value - before[name], 4) for name, value in now.items()}
