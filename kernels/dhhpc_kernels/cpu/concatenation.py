"""Joining arrays along the channel axis."""

from collections.abc import Sequence

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares


@compile_kernel
def _copy(
    source: np.ndarray, source_start: int, target: np.ndarray, target_start: int, first: int, last: int
) -> None:
    """Of each sample, the elements first to last, counted from where the joined part starts."""
    for sample in range(len(source)):
        values = source[sample, source_start + first : source_start + last]
        copied = target[sample, target_start + first : target_start + last]
        for i in range(copied.size):
            copied[i] = values[i]


def _samples(array: np.ndarray) -> np.ndarray:
    """(N,C,...) as (N, elements of a sample), never a copy. ValueError if not contiguous."""
    return array.reshape(len(array), -1, copy=False)


def concatenate_forward(inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
    """out (N,C1+C2+...,...) = the inputs (N,Ci,...) one after the other along axis 1."""
    start, joined = 0, _samples(out)
    for array in inputs:
        part = _samples(array)
        run_shares(_copy, part.shape[1], part.size, part, 0, joined, start)
        start += part.shape[1]


def concatenate_backward(grad_out: np.ndarray, grad_inputs: Sequence[np.ndarray]) -> None:
    """Each of grad_inputs (N,Ci,...) = its channels of grad_out."""
    start, joined = 0, _samples(grad_out)
    for array in grad_inputs:
        part = _samples(array)
        run_shares(_copy, part.shape[1], part.size, joined, start, part, 0)
        start += part.shape[1]
