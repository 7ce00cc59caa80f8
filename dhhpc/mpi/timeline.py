"""A timeline of what a rank does, in the Trace Event Format that chrome://tracing and Perfetto show.

A file a rank: a JSON array, an event a line. Its closing bracket may be missing (the format allows it), so
that the file of a run that was killed can be shown too. Times are microseconds on rank 0's clock.

The clock of a rank is aligned by messages to rank 0 and back: of several, the fastest tells that rank 0's
answer was given halfway, to within half of the way there and back (Cristian, 1989, "Probabilistic clock
synchronization"). That is a few microseconds, and the trace's first event tells both numbers. Clocks of
machines that NTP keeps drift apart by some milliseconds an hour at most; ranks of one machine have one
clock.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhhpc.files import write_error

if TYPE_CHECKING:
    from dhhpc.mpi.world import World

# Events kept in memory, then written in one piece.
PIECE = 500
# Of a file, in bytes; what comes then is not recorded.
LARGEST = 2**26
# Messages there and back by which clocks are compared.
TURNS = 20
# The thread whose time is told, and a row for what another one does beside it.
THREAD, BESIDE = 1, 2


class Timeline:
    """Records nothing, at next to no cost; `TraceFile` records.

    Attributes:
        collectives_as: the category under which collectives are recorded.
    """

    def __init__(self) -> None:
        self.collectives_as = "communication"

    def record(self, wanted: bool) -> None:
        """Whether what comes now is to be recorded."""

    def span(self, name: str, category: str, started: float, ended: float, **values: Any) -> None:
        """Something that took from one time of `time.perf_counter` to another."""

    def beside(self, name: str, started: float, ended: float, **values: Any) -> None:
        """Something that another thread has done, as the main thread tells now; on a row of its own."""

    def collective(self, name: str, started: float, ended: float, size: int | None) -> None:
        """A collective, with the bytes that this rank handed to it."""

    def begin(self, name: str, started: float, size: int) -> int | None:
        """Something begins that goes on beside all else; what `end` needs, None unless it is recorded."""
        return None

    def end(self, number: int | None) -> None:
        """It has arrived, as this rank finds now."""

    def flush(self) -> None:
        """Write what there is."""

    def close(self) -> None:
        """Write the rest."""

    @contextlib.contextmanager
    def section(self, name: str, collectives: str) -> Iterator[None]:
        """Record what is done inside as a span, and the collectives in it under a category of their own."""
        earlier, self.collectives_as = self.collectives_as, collectives
        started = time.perf_counter()
        try:
            yield
        finally:
            self.collectives_as = earlier
            self.span(name, "section", started, time.perf_counter())


class TraceFile(Timeline):
    """The timeline of this rank in a file.

    Args:
        path: made anew, with its folder.
        world: all ranks call this together.

    Attributes:
        recording: whether it records now.
        offset: seconds by which this rank's clock is ahead of rank 0's.
        error: how far off that may be, in seconds.

    Raises:
        DhhpcError: the file cannot be written (every method).
    """

    def __init__(self, path: Path, world: World) -> None:
        super().__init__()
        self.recording = True
        self.path, self.rank = path, world.rank
        self.offset, self.error = clock_offset(world)
        self.started: float = world.broadcast_object(time.perf_counter())
        self._numbers = 0
        self._open: dict[int, str] = {}
        self._written = 0
        self._full = False
        self._events: list[dict[str, Any]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"[")
        except OSError as error:
            raise write_error(path, error) from error
        about: dict[str, dict[str, Any]] = {"process_name": {"name": f"rank {world.rank} on {world.host}"}}
        about |= {"process_sort_index": {"sort_index": world.rank}, "thread_name": {"name": "main thread"}}
        for name, values in about.items():
            self._add(name, "M", self.started + self.offset, args=values)
        self._add("thread_name", "M", self.started + self.offset, tid=BESIDE, args={"name": "background"})
        clock = {"offset_microseconds": self.offset * 1e6, "error_microseconds": self.error * 1e6}
        began = datetime.now(UTC).isoformat(timespec="microseconds")
        self._add("clock", "i", time.perf_counter(), s="p", args=clock | {"time": began})

    def record(self, wanted: bool) -> None:
        self.recording = wanted and not self._full

    def span(self, name: str, category: str, started: float, ended: float, **values: Any) -> None:
        if self.recording:
            duration = round((ended - started) * 1e6, 3)
            self._add(name, "X", started, dur=duration, cat=category, args=values)

    def beside(self, name: str, started: float, ended: float, **values: Any) -> None:
        duration = round((ended - started) * 1e6, 3)
        self._add(name, "X", started, tid=BESIDE, dur=duration, cat="background", args=values)

    def collective(self, name: str, started: float, ended: float, size: int | None) -> None:
        values = {} if size is None else {"bytes": size}
        self.span(name, self.collectives_as, started, ended, **values)

    def begin(self, name: str, started: float, size: int) -> int | None:
        if not self.recording:
            return None
        self._numbers += 1
        self._open[self._numbers] = name
        self._async(name, "b", started, self._numbers, args={"bytes": size})
        return self._numbers

    def end(self, number: int | None) -> None:
        if number is not None:
            self._async(self._open.pop(number), "e", time.perf_counter(), number)

    def _async(self, name: str, phase: str, at: float, number: int, **fields: Any) -> None:
        # An id is one for all processes that share a file, as they do once ranks are merged.
        self._add(name, phase, at, cat="overlapped", id=f"{self.rank}.{number}", **fields)

    def _add(self, name: str, phase: str, at: float, **fields: Any) -> None:
        microseconds = round((at - self.offset - self.started) * 1e6, 3)
        event = {"name": name, "ph": phase, "ts": microseconds, "pid": self.rank, "tid": THREAD}
        self._events.append(event | fields)
        if len(self._events) >= PIECE:
            self.flush()

    def flush(self) -> None:
        events, self._events = self._events, []
        if not events or self._full:
            return
        if self._written > LARGEST:
            self._full, self.recording = True, False
            self._add(f"the end of the timeline at {LARGEST >> 20} MiB", "i", time.perf_counter(), s="p")
            events, self._events = self._events, []
        text = ",".join("\n" + json.dumps(event) for event in events)
        self._append(("," if self._written else "") + text)
        self._written += len(text)

    def close(self) -> None:
        self.flush()
        self._append("\n]\n")

    def _append(self, text: str) -> None:
        """In one call, so that a run that is killed leaves whole events."""
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as error:
            raise write_error(self.path, error) from error


def clock_offset(world: World) -> tuple[float, float]:
    """Seconds by which this rank's `time.perf_counter` is ahead of rank 0's, and how far off that may be.

    All ranks call this; rank 0 answers one after the other.
    """
    if world.size == 1:
        return 0.0, 0.0
    found: list[tuple[float, float]] = [(0.0, 0.0)]
    with world.inside("clock_offset"):
        for rank in range(1, world.size):
            if world.rank == 0:
                for _ in range(TURNS):
                    world.communicator.recv(source=rank)
                    world.communicator.send(time.perf_counter(), dest=rank)
            elif world.rank == rank:
                found = []
                for _ in range(TURNS):
                    sent = time.perf_counter()
                    world.communicator.send(None, dest=0)
                    answered = world.communicator.recv(source=0)
                    back = time.perf_counter()
                    found.append(((back - sent) / 2, (sent + back) / 2 - answered))
    error, offset = min(found)
    return offset, error
