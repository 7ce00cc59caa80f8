"""The machine's peak of multiply-adds: the micro-kernel on data in the first-level cache."""

import time

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.microkernel import HEIGHT, WIDTH, multiply_packed
from dhhpc_kernels.parallel import run_parallel, threads

_DEPTH = 128  # packed factors of some kilobytes
_OPERATIONS = 2 * HEIGHT * WIDTH * _DEPTH  # of one tile


@compile_kernel
def _multiply(weights: np.ndarray, source: np.ndarray, target: np.ndarray, repetitions: int) -> None:
    for _ in range(repetitions):
        multiply_packed(weights, 0, source, 0, _DEPTH, target, 0, WIDTH, False)


def peak_gflops(rounds: int = 20, seconds: float = 0.02) -> float:
    """10^9 float32 additions and multiplications a second on all threads of this process; the best round."""
    calls = [
        (
            np.ones(_DEPTH * HEIGHT, np.float32),
            np.ones(_DEPTH * WIDTH, np.float32),
            np.empty(HEIGHT * WIDTH, np.float32),
        )
        for _ in range(threads())
    ]
    repetitions, best = 1, 0.0
    while rounds > 0:
        started = time.perf_counter()
        run_parallel(_multiply, [(*call, repetitions) for call in calls])
        elapsed = time.perf_counter() - started
        if elapsed < seconds:
            repetitions *= 2
        else:
            best = max(best, len(calls) * repetitions * _OPERATIONS / elapsed / 1e9)
            rounds -= 1
    return best
