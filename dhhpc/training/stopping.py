"""Stopping on a signal: a checkpoint, and an exit code on which job scripts requeue."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from dhhpc.mpi import TRY_AGAIN
from dhhpc.training.meeting import Meeting


class Stopped(SystemExit):
    """The run was asked to stop by a signal and has written a checkpoint: no failure, it can be resumed.

    Left alone it ends the process with TRY_AGAIN, on which job scripts requeue.
    """

    def __init__(self) -> None:
        super().__init__(TRY_AGAIN)


@contextlib.contextmanager
def stopping_on_signals(meeting: Meeting) -> Iterator[None]:
    """While inside, SIGTERM and SIGUSR1 ask for a checkpoint at the next meeting, and the end."""

    def ask(number: int, frame: FrameType | None) -> None:
        meeting.stop_requested = True

    handlers = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
