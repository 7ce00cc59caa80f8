"""Threads that wait for the next kernel awake for a while, then asleep.

A step calls a kernel every few dozen microseconds; to wake a sleeping thread takes as long as many a kernel,
on virtual machines several times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from dhhpc_kernels.entries import Entry, find_entry, kernel_failed
from dhhpc_kernels.jobs import (
    AWAITED,
    ENDED,
    FAILED,
    HEARD,
    IS_AWAITED,
    JOB,
    NOTHING_CAME,
    RUNG,
    await_end,
    call_back,
    end,
    new_desk,
    ring,
    serve,
)
from dhhpc_kernels.meetings import abandon
from dhhpc_kernels.spinning import spin

Task = Callable[..., None]


class _Worker(threading.Thread):
    """Serves a desk; whoever has begun a job there finishes it, too."""

    def __init__(self, number: int, looks: int) -> None:
        super().__init__(name=f"dhhpc-kernels-{number}", daemon=True)
        self.looks = looks
        self.desk = new_desk()
        self.job, self.ended = self.desk[JOB:], self.desk[ENDED:]
        self.asleep = False
        self.wake, self.told = threading.Semaphore(0), threading.Semaphore(0)
        self.work: tuple[Task, tuple[Any, ...]] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        while True:
            reason = serve(self.desk, self.looks)
            if reason == NOTHING_CAME:
                self._sleep()
            elif reason == IS_AWAITED:
                self.told.release()
            elif self.work is None:
                return
            else:
                task, call = self.work
                try:
                    task(*call)
                except BaseException as error:  # raised again in the thread that waits
                    self.error = error
                del task, call
                if end(self.desk):
                    self.told.release()

    def _sleep(self) -> None:
        self.asleep = True
        # Rung before it was known that this thread sleeps?
        if self.desk[RUNG] == self.desk[HEARD]:
            self.wake.acquire()
        self.asleep = False

    def begin(self, entry: Entry | None, task: Task | None, call: tuple[Any, ...]) -> None:
        """Let the thread run the kernel of an entry or else a Python function; None: let it end."""
        if self.desk[RUNG] != self.ended[0]:  # a signal came before the caller had finished the last one
            self.finish()
        self.work = (task, call) if task is not None else None  # keeps the arguments alive
        if entry is None:
            call_back(self.desk)
        else:
            entry.write(self.job, entry.address, call)
            ring(self.desk)
        self._wake()

    def _wake(self) -> None:
        if self.asleep:
            self.asleep = False
            self.wake.release()

    def finish(self) -> BaseException | None:
        """Wait until what was begun has ended; what it raised."""
        self._wake()  # where a signal came just before
        begun = int(self.desk[RUNG])
        while not spin(self.ended, begun - 1, self.looks):
            if not await_end(self.desk, begun):
                self.told.acquire()
            self.desk[AWAITED] = 0
        error, self.error = self.error, None
        if self.desk[FAILED]:
            self.desk[FAILED] = 0
            error = kernel_failed(self.work[0].__name__ if self.work else "a kernel")
        self.work = None
        return error


class Pool:
    """So many threads beside the caller's.

    Args:
        size: number of threads, at least 1.
        looks: how often a thread looks for work before it sleeps; 1 where cores are scarce.
    """

    def __init__(self, size: int, looks: int) -> None:
        self.taken = threading.RLock()
        self.workers = [_Worker(number, looks) for number in range(size)]
        for worker in self.workers:
            worker.start()

    def run(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> None:
        """task(*call) for every call, the first ones on the caller's thread, one on each of the others.

        Several callers wait for each other. Raises what a call raised, once all have ended.
        """
        with self.taken:
            error = self._run(task, calls)
        if error is not None:
            raise error

    def _run(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> BaseException | None:
        entry = find_entry(task, calls)
        count = min(len(calls) - 1, len(self.workers))
        own, others = calls[: len(calls) - count], calls[len(calls) - count :]
        busy = self.workers[:count]
        error: BaseException | None = None
        try:
            for worker, call in zip(busy, others, strict=True):
                worker.begin(entry, task, call)
            for call in own:
                if entry is None:
                    task(*call)
                else:
                    entry.run(call)
        except BaseException as raised:  # a signal's, too
            error = raised
            abandon(calls)
        for worker in busy:
            error = worker.finish() or error
        return error

    def stop(self) -> None:
        """End the threads."""
        for worker in self.workers:
            worker.begin(None, None, ())
        for worker in self.workers:
            worker.join()
