"""Logs as they are written: of one job, or of an array's tasks side by side."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from dhhpc.batch.jobs import JobRecord, JobStatus
from dhhpc.batch.schedulers import scheduler_for
from dhhpc.errors import DhhpcError

# Between two looks at the logs, and at the scheduler, which serves many, in seconds.
LOG_INTERVAL = 0.3
STATE_INTERVAL = 2.0
# A busy scheduler fails to answer now and then.
MOST_SILENCES = 5


class Tail:
    """What a log that grows has gained since the last look."""

    def __init__(self, path: Path, tail: int | None = None) -> None:
        self.path = path
        self.tail = tail
        self._file: BinaryIO | None = None
        self._rest = b""

    def lines(self, last: bool = False) -> list[str]:
        """The new whole lines, without their ends; with `last` also one that has no end yet.

        Of what is there at the first look, only the last `tail`.
        """
        first = self._file is None
        if self._file is None:
            try:
                self._file = open(self.path, "rb")  # noqa: SIM115 - closed by `close`
            except FileNotFoundError:
                return []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        if last and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        if first and self.tail is not None:
            whole = list(deque(whole, self.tail))
        return [line.decode(errors="replace").rstrip("\r") for line in whole]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, without their ends."""
    with open(path, encoding="utf-8", errors="replace") as log:
        return [line.rstrip("\n") for line in deque(log, count)]


def follow(
    job: JobRecord, tasks: Sequence[int | None], tail: int | None, show: Callable[[int | None, str], None]
) -> JobStatus:
    """Give each line of a job's logs to `show`, as it is written, until the job is over.

    Args:
        tasks: those of an array; [None] for a single job.
        tail: of what is there already only so many lines of each log.
        show: called with the task and a line.

    Returns:
        How the job ended; of an array with a single task, how that did.

    Raises:
        DhhpcError: the scheduler does not answer any more.
    """
    tails = {task: Tail(job.logs[task or 0], tail) for task in tasks}
    scheduler = scheduler_for(job.scheduler, job.site)

    def show_new(last: bool = False) -> None:
        for task, one in tails.items():
            for line in one.lines(last):
                show(task, line)

    silences = 0
    asked = -STATE_INTERVAL
    try:
        while True:
            if time.monotonic() - asked >= STATE_INTERVAL:
                asked = time.monotonic()
                try:
                    status = scheduler.status(job)
                    silences = 0
                except DhhpcError:
                    silences += 1
                    if silences == MOST_SILENCES:
                        raise
                else:
                    ends = [status if task is None else status.tasks[task] for task in tasks]
                    if all(end.finished for end in ends):
                        # On a shared file system the last lines come later than the end.
                        time.sleep(LOG_INTERVAL)
                        show_new(last=True)
                        return ends[0] if len(ends) == 1 else status
            show_new()
            time.sleep(LOG_INTERVAL)
    finally:
        for one in tails.values():
            one.close()
