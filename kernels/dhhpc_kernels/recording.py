"""What kernels some code calls, in which order and with which arguments."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dhhpc_kernels.cache_lines import LINE, aligned_zeros, whole_lines

Call = tuple[Any, ...]

_MOST_COUNTERS = 128 * 1024  # numbers; memory that is never written to takes no room

_here = threading.local()


class Recording:
    """The calls of each `run_parallel` on this thread, with the counters that they share.

    Attributes:
        calls: (kernel, calls that run beside each other) in order.
        counters: int64, of which so many are `used`; the first cache line is nobody's.
        complete: whether there was room for all counters.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., None], Sequence[Call]]] = []
        self.counters = aligned_zeros(_MOST_COUNTERS)
        self.used = LINE
        self.complete = True

    def new_counters(self, count: int) -> np.ndarray:
        """Zeros, with cache lines of their own."""
        size = whole_lines(count)
        if self.used + size > self.counters.size:
            self.complete = False
            return aligned_zeros(size)
        self.used += size
        return self.counters[self.used - size : self.used]


def current_recording() -> Recording | None:
    """The one that this thread makes now."""
    return getattr(_here, "recording", None)


@contextlib.contextmanager
def making(recording: Recording) -> Iterator[None]:
    """Meanwhile this thread's calls are recorded."""
    _here.recording = recording
    try:
        yield
    finally:
        _here.recording = None


def new_counters(count: int) -> np.ndarray:
    """Zeros (int64), with cache lines of their own, for the calls of one `run_parallel`.

    A replay of these calls begins with zeros again.
    """
    recording = current_recording()
    return aligned_zeros(whole_lines(count)) if recording is None else recording.new_counters(count)
