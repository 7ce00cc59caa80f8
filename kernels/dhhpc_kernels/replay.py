"""Kernels that run again with the arguments of before, on all threads, without Python in between.

Between two kernels Python takes as long as a small kernel: it finds layers, shapes and plans, which by then
are in none of the core's caches any more. Where a step calls the same kernels with the same arrays each time,
what they are called with is written down once, and each thread runs its part of all of them.
"""

from collections.abc import Callable

import numpy as np

from dhhpc_kernels.cache_lines import LINE, aligned_zeros, whole_lines
from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.entries import find_entry, is_kernel, kernel_failed
from dhhpc_kernels.jobs import JOB_SIZE, run_job
from dhhpc_kernels.meetings import ALL_EVER, Arrivals, meet
from dhhpc_kernels.parallel import run_parallel, threads
from dhhpc_kernels.recording import Recording, making


@compile_kernel
def _run_rows(rows: np.ndarray, arrivals: Arrivals, failed: np.ndarray, thread: int, parties: int) -> None:
    """Run a thread's job of each row, if it has one; all meet behind the rows whose last number is 1.

    arrivals: with the counters of all jobs, too. failed: gets the number of a row, from 1, one of whose jobs
    failed; all end then.
    """
    meetings = 0
    for row in range(len(rows)):
        job = rows[row, thread]
        if job != 0 and run_job(job):
            failed[0] = row + 1
            arrivals.counter[:] = ALL_EVER  # nobody waits for this thread
        if rows[row, parties] != 0:
            meetings += 1
            meet(arrivals, parties, meetings)
        if failed[0] != 0:
            return


class Replay:
    """The kernels of a recording, to run again on as many threads as are set now. Keeps their arguments."""

    def __init__(self, recording: Recording) -> None:
        self.threads = threads()
        self._calls = recording.calls
        self._arrivals = Arrivals(recording.counters[: recording.used])
        self._failed = np.zeros(1, np.int64)
        self._names: list[str] = []  # of each row's kernel
        rows: list[list[int]] = []  # where each thread's job begins, from 1 on
        jobs, size = [np.zeros(LINE, np.int64)], LINE
        place = aligned_zeros(JOB_SIZE)
        for number, (kernel, calls) in enumerate(self._calls):
            entry = find_entry(kernel, calls)
            assert entry is not None
            # As without a recording: the first calls on the caller's thread, one on each of the others.
            own = len(calls) - min(len(calls), self.threads) + 1
            for turn, call in enumerate(calls):
                if turn < own:
                    rows.append([0] * (self.threads + 1))
                    self._names.append(kernel.__name__)
                thread = max(0, turn - own + 1)
                rows[-1 if turn < own else -own][thread] = size
                length = whole_lines(entry.write(place, entry.address, call))
                jobs.append(place[:length].copy())
                size += length
            # Between kernels that the caller runs alone nobody waits.
            following = self._calls[number + 1 : number + 2]
            rows[-1][-1] = any(len(beside) > 1 for beside in (calls, *(later for _, later in following)))
        self._jobs = aligned_zeros(size)
        np.concatenate(jobs, out=self._jobs)
        self._rows = np.array(rows, np.int64).reshape(-1, self.threads + 1)
        self._rows[:, :-1] = np.where(self._rows[:, :-1], self._jobs.ctypes.data + 8 * self._rows[:, :-1], 0)
        shared = self._rows, self._arrivals, self._failed
        self._threads_calls = [(*shared, thread, self.threads) for thread in range(self.threads)]
        find_entry(_run_rows, self._threads_calls)  # compiled now, as the kernels are

    @property
    def fits(self) -> bool:
        """Whether as many threads are set as when it was made."""
        return self.threads == threads()

    def run(self) -> None:
        """Run all kernels. Raises RuntimeError if one fails."""
        self._arrivals.counter.fill(0)
        self._failed[0] = 0
        run_parallel(_run_rows, self._threads_calls)
        if self._failed[0]:
            raise kernel_failed(self._names[self._failed[0] - 1])


def record(code: Callable[[], object]) -> Replay | None:
    """Run code, and return what runs the kernels again that it has called.

    Whatever else it did is not done again. None if it shared out work that is no kernel's.
    """
    recording = Recording()
    with making(recording):
        code()
    if not recording.complete or not all(is_kernel(task) for task, _ in recording.calls):
        return None
    return Replay(recording)
