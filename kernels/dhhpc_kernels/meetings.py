"""Threads that wait for each other inside a kernel, as a way through Python takes as long as a small kernel.

All calls of a kernel that meet must run at once, each on a thread of its own: at most `threads` calls.
"""

import numpy as np
from numba import types

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.spinning import add_one, look_at, spin

_LOOKS = 10_000  # before the core is offered to others, for there may be fewer cores than threads

_yield_core = types.ExternalFunction("sched_yield", types.int32())


def new_meetings() -> np.ndarray:
    """A counter (int64) of the arrivals, for one call of `run_parallel`."""
    return np.zeros(8, np.int64)


@compile_kernel
def meet(arrivals: np.ndarray, parties: int, times: int) -> None:
    """Return once each of the parties has called this so many times, counted from 1.

    What any of them wrote before, all see afterwards.
    """
    add_one(arrivals)
    arrived = look_at(arrivals)
    while arrived < parties * times:
        if not spin(arrivals, arrived, _LOOKS):
            _yield_core()
        arrived = look_at(arrivals)
