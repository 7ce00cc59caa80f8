"""Threads that wait for the next kernel awake for a while, then asleep.

A step calls a kernel every few dozen microseconds; to wake a sleeping thread takes as long as many a kernel,
on virtual machines several times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dhhpc_kernels.spinning import ring_and_spin, spin

Task = Callable[..., None]

_HEAD_START = 400  # looks, as long as a thread takes to begin a kernel


class _Bell:
    """Rung by one thread and heard by another; a number tells how often."""

    def __init__(self) -> None:
        self.rung = np.zeros(8, np.int64)  # a cache line of its own
        self.heard = 0
        self.asleep = False
        self.wake = threading.Semaphore(0)

    def ring(self, watched: _Bell, looks: int) -> None:
        """Ring, then look so often at another bell, until it is rung.

        Nobody holds the interpreter's lock meanwhile: who hears the ring needs it, and falls asleep where it
        is not free, for longer than many a kernel takes.
        """
        if self.asleep:
            self.rung[0] += 1
        else:
            ring_and_spin(self.rung, watched.rung, watched.heard, looks)
        # Whoever fell asleep just before did not hear it.
        if self.asleep:
            self._wake()

    def listen(self, looks: int) -> None:
        """Return once the bell has been rung since the last time."""
        while not spin(self.rung, self.heard, looks):
            self._sleep()
        self.heard += 1

    def _wake(self) -> None:
        self.asleep = False
        self.wake.release()

    def _sleep(self) -> None:
        self.asleep = True
        # Rung before it was known that this thread sleeps?
        if self.rung[0] == self.heard:
            self.wake.acquire()
        self.asleep = False


class _Worker(threading.Thread):
    def __init__(self, number: int, looks: int) -> None:
        super().__init__(name=f"dhhpc-kernels-{number}", daemon=True)
        self.looks = looks
        self.start_bell, self.end_bell = _Bell(), _Bell()
        self.work: tuple[Task, tuple[Any, ...]] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        self.start_bell.listen(self.looks)
        while self.work is not None:
            task, call = self.work
            try:
                task(*call)
            except BaseException as error:  # raised again in the thread that waits
                self.error = error
            del task, call
            self.work = None
            self.end_bell.ring(self.start_bell, self.looks)
            self.start_bell.listen(self.looks)


class Pool:
    """So many threads beside the caller's.

    Args:
        size: number of threads, at least 1.
        looks: how often a thread looks for work before it sleeps; 1 where cores are scarce.
    """

    def __init__(self, size: int, looks: int) -> None:
        self.looks = looks
        self.workers = [_Worker(number, looks) for number in range(size)]
        for worker in self.workers:
            worker.start()

    def run(self, task: Task, calls: Sequence[tuple[Any, ...]]) -> None:
        """task(*call) for every call, the first ones on the caller's thread, one on each of the others.

        Raises what a call raised, once all have ended.
        """
        count = min(len(calls) - 1, len(self.workers))
        own, others = calls[: len(calls) - count], calls[len(calls) - count :]
        for number, (worker, call) in enumerate(zip(self.workers, others, strict=False), 1):
            worker.work = (task, call)
            # The last ring leaves the others the interpreter's lock, which each needs to begin.
            head_start = min(_HEAD_START, self.looks) if number == count else 0
            worker.start_bell.ring(worker.end_bell, head_start)
        error: BaseException | None = None
        try:
            for call in own:
                task(*call)
        except BaseException as raised:
            error = raised
        for worker in self.workers[:count]:
            worker.end_bell.listen(self.looks)
            error, worker.error = error or worker.error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """End the threads."""
        for worker in self.workers:
            worker.work = None
            worker.start_bell.ring(worker.end_bell, 0)
        for worker in self.workers:
            worker.join()
