"""ReLU, also of a sum, and sigmoid. Both may run in place: out may be x, grad_x may be grad_out."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.exponential import exponential
from dhhpc_kernels.cpu.views import BLOCK, flat
from dhhpc_kernels.parallel import run_shares

F = np.float32


# The compiler vectorises a loop only where it writes no array that it reads. For in-place calls to be as fast
# as others, each block of results goes through a buffer of its own.


@compile_kernel
def copy(source: np.ndarray, target: np.ndarray) -> None:
    for i in range(target.size):
        target[i] = source[i]


@compile_kernel
def _relu_forward(
    x: np.ndarray, addend: np.ndarray, out: np.ndarray, added: bool, first: int, last: int
) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = x[start:stop]
        other = addend[start:stop]
        if added:
            for i in range(value.size):
                total = value[i] + other[i]
                buffer[i] = F(0) if total <= F(0) else total
        else:
            for i in range(value.size):
                buffer[i] = F(0) if value[i] <= F(0) else value[i]
        copy(buffer, out[start:stop])


@compile_kernel
def _relu_backward(
    out: np.ndarray,
    grad_out: np.ndarray,
    grad_addend: np.ndarray,
    grad_x: np.ndarray,
    summed: bool,
    first: int,
    last: int,
) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        result = out[start:stop]
        gradient = grad_out[start:stop]
        other = grad_addend[start:stop]
        if summed:
            for i in range(result.size):
                buffer[i] = F(0) if result[i] <= F(0) else gradient[i] + other[i]
        else:
            for i in range(result.size):
                buffer[i] = F(0) if result[i] <= F(0) else gradient[i]
        copy(buffer, grad_x[start:stop])


@compile_kernel
def _sigmoid_forward(x: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = x[start:stop]
        for i in range(value.size):
            buffer[i] = F(1) / (F(1) + exponential(-value[i]))
        copy(buffer, out[start:stop])


@compile_kernel
def _sigmoid_backward(
    out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray, first: int, last: int
) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        result = out[start:stop]
        gradient = grad_out[start:stop]
        for i in range(result.size):
            buffer[i] = gradient[i] * result[i] * (F(1) - result[i])
        copy(buffer, grad_x[start:stop])


def relu_forward(x: np.ndarray, out: np.ndarray, addend: np.ndarray | None = None) -> None:
    """out = max(x + addend, 0), float32 of any shape. NaN stays NaN. It may be written over either."""
    other = x if addend is None else addend
    run_shares(_relu_forward, out.size, out.size, flat(x), flat(other), flat(out), addend is not None)


def relu_backward(
    out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray, grad_addend: np.ndarray | None = None
) -> None:
    """grad_x = grad_out + grad_addend, the parts of the gradient by out, where out > 0, else 0."""
    other = grad_out if grad_addend is None else grad_addend
    arrays = flat(out), flat(grad_out), flat(other), flat(grad_x)
    run_shares(_relu_backward, grad_x.size, grad_x.size, *arrays, grad_addend is not None)


def sigmoid_forward(x: np.ndarray, out: np.ndarray) -> None:
    """out = 1 / (1 + exp(-x)), float32 of any shape."""
    run_shares(_sigmoid_forward, out.size, out.size, flat(x), flat(out))


def sigmoid_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x = grad_out * out * (1 - out)."""
    run_shares(_sigmoid_backward, grad_x.size, grad_x.size, flat(out), flat(grad_out), flat(grad_x))
