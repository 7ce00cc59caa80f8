"""How many threads the kernels of this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dhhpc_kernels.recording import current_recording

if TYPE_CHECKING:
    from dhhpc_kernels.pool import Pool


def default_threads(cores: int) -> int:
    """OMP_NUM_THREADS (as BLAS reads it) or else SLURM_CPUS_PER_TASK where set, but at most `cores`."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        first = os.environ.get(name, "").split(",")[0]  # OpenMP takes a list, a number a level of nesting
        if first.isdigit() and int(first) > 0:
            return min(int(first), cores)
    return cores


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Below this a share takes about as long as handing it to a thread.
_LEAST_WORK = 128 * 1024  # floats

# How often an idle thread looks for work before it sleeps: some tenths of a millisecond.
_LOOKS = 10_000

_threads = default_threads(_cores())
_pool: Pool | None = None
_pool_process = 0


def threads() -> int:
    """Number of threads the kernels use."""
    return _threads


def set_threads(count: int) -> None:
    """Let the kernels, and OpenMP as far as loaded, use `count` threads (at least 1) from now on.

    BLAS keeps to one thread, as the kernels' threads call it.

    Raises ValueError if count is below 1.
    """
    global _threads, _pool
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    import threadpoolctl

    threadpoolctl.threadpool_limits(limits=count, user_api="openmp")
    if _pool is not None and count != _threads:
        if _pool_process == os.getpid():
            _pool.stop()
        _pool = None
    _threads = count


def run_parallel(task: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """Run task(*call) for every call, on this thread and the pool's. Each must write to its own places."""
    global _pool, _pool_process
    recording = current_recording()
    if recording is not None:
        recording.calls.append((task, calls))
    if _threads == 1 or len(calls) < 2:
        for call in calls:
            task(*call)
        return
    if _pool is None or _pool_process != os.getpid():  # a forked child has no threads of its parent's pool
        from dhhpc_kernels.pool import Pool  # with Numba, which is slow to import

        _pool = Pool(_threads - 1, _LOOKS if _threads <= _cores() else 1)
        _pool_process = os.getpid()
    _pool.run(task, calls)


def run_shares(kernel: Callable[..., None], count: int, work: int, *arguments: Any) -> None:
    """Run kernel(*arguments, first, last) over 0 to count, shared out to the threads if work is worth it.

    work: the floats that are read or written.
    """
    parts = _threads if work >= _LEAST_WORK else 1
    run_parallel(kernel, [(*arguments, first, last) for first, last in shares(count, parts)])


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """At most `parts` ranges (first, last) of nearly equal length, none empty, that make up 0 to count."""
    parts = max(1, min(parts, count))
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
