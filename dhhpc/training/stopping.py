"""Stopping on a signal: a checkpoint, and an exit code on which job scripts requeue."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from dhhpc.mpi import TRY_AGAIN


class Stoppable(Protocol):
    """What takes the wish to stop."""

    stop_requested: bool


@dataclass
class StopRequest:
    """Whether a signal has asked this process to stop; it outlives a run, for those that come after it."""

    stop_requested: bool = False


class Stopped(SystemExit):
    """The run was asked to stop by a signal and has written a checkpoint: no failure, it can be resumed.

    Left alone it ends the process with TRY_AGAIN, on which job scripts requeue.
    """

    def __init__(self) -> None:
        super().__init__(TRY_AGAIN)


@contextlib.contextmanager
def stopping_on_signals(*asked: Stoppable) -> Iterator[None]:
    """While inside, SIGTERM and SIGUSR1 ask all of `asked` to stop: a run does so at the next meeting, with a
    checkpoint."""

    def ask(number: int, frame: FrameType | None) -> None:
        for one in asked:
            one.stop_requested = True

    handlers = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
