"""Sums, products and maxima of arrays of one shape.

NumPy's loops are memory-bound here and let other threads run, so little is compiled.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.activations import copy
from dhhpc_kernels.cpu.views import BLOCK, flat
from dhhpc_kernels.parallel import run_shares

F = np.float32


def _share_out(function: Callable[..., object], out: np.ndarray, *arrays: np.ndarray) -> None:
    """out = function of arrays of its shape; out may be one of them."""

    def run(first: int, last: int) -> None:
        function(*(flat(array)[first:last] for array in arrays), out=flat(out)[first:last])

    run_shares(run, out.size, out.size)


@compile_kernel
def _add(first: np.ndarray, second: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    buffer = np.empty(BLOCK, np.float32)  # as in `activations`: either may be written over
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        values = first[start:stop]
        others = second[start:stop]
        for i in range(values.size):
            buffer[i] = values[i] + others[i]
        copy(buffer, out[start:stop])


def add(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    """out = first + second; either may be out itself."""
    run_shares(_add, out.size, out.size, flat(first), flat(second), flat(out))


def add_forward(inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
    """out = the sum of the inputs (one or more arrays of out's shape); the first may be out itself."""
    if len(inputs) == 1:
        np.copyto(out, inputs[0])
        return
    add(inputs[0], inputs[1], out)
    for addend in inputs[2:]:
        add(out, addend, out)


def accumulate(addend: np.ndarray, total: np.ndarray) -> None:
    """total += addend."""
    add(total, addend, total)


def multiply(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    """out = first * second; either may be out itself. The gradients are products too."""
    _share_out(np.multiply, out, first, second)


def subtract(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    """out = first - second; either may be out itself."""
    _share_out(np.subtract, out, first, second)


def negate(x: np.ndarray, out: np.ndarray) -> None:
    """out = -x."""
    _share_out(np.negative, out, x)


def maximum_forward(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> None:
    """out = the larger of first and second, NaN where one is."""
    _share_out(np.maximum, out, first, second)


@compile_kernel
def _maximum_backward(
    x: np.ndarray,
    y: np.ndarray,
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    grad_y: np.ndarray,
    begin: int,
    end: int,
) -> None:
    x = x[begin:end]
    y = y[begin:end]
    grad_out = grad_out[begin:end]
    grad_x = grad_x[begin:end]
    grad_y = grad_y[begin:end]
    for i in range(x.size):
        share = F(1) if x[i] > y[i] else F(0.5) if x[i] == y[i] else F(0)
        grad_x[i] = share * grad_out[i]
        grad_y[i] = (F(1) - share) * grad_out[i]


def maximum_backward(
    first: np.ndarray,
    second: np.ndarray,
    grad_out: np.ndarray,
    grad_first: np.ndarray,
    grad_second: np.ndarray,
) -> None:
    """The gradient goes to the larger, halved between equals as in PyTorch."""
    arrays = (flat(array) for array in (first, second, grad_out, grad_first, grad_second))
    run_shares(_maximum_backward, grad_out.size, 3 * grad_out.size, *arrays)
