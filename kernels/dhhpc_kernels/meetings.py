"""Threads that wait for each other inside a kernel, as a way through Python takes as long as a small kernel.

All calls of a kernel that meet must run at once, each on a thread of its own: at most `threads` calls.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.recording import new_counters
from dhhpc_kernels.spinning import add_one, look_at, spin

_LOOKS = 10_000  # before the core is offered to others, for there may be fewer cores than threads
ALL_EVER = 1 << 62  # meetings

_yield_core = types.ExternalFunction("sched_yield", types.int32())


class Arrivals(NamedTuple):
    """How often the calls of one `run_parallel` have come to meet.

    counter: int64, the first number, with cache lines of its own.
    """

    counter: np.ndarray


def new_arrivals() -> Arrivals:
    return Arrivals(new_counters(8))


def abandon(calls: Iterable[tuple[Any, ...]]) -> None:
    """Let nobody wait any longer in these calls, one of which will not come: what they compute is lost."""
    for call in calls:
        for argument in call:
            if isinstance(argument, Arrivals):
                argument.counter[:] = ALL_EVER


@compile_kernel
def meet(arrivals: Arrivals, parties: int, times: int) -> None:
    """Return once each of the parties has called this so many times, counted from 1.

    What any of them wrote before, all see afterwards.
    """
    add_one(arrivals.counter)
    arrived = look_at(arrivals.counter)
    while arrived < parties * times:
        if not spin(arrivals.counter, arrived, _LOOKS):
            _yield_core()
        arrived = look_at(arrivals.counter)
