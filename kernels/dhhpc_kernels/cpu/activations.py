"""ReLU, sigmoid and softmax. All may run in place: out may be x, grad_x may be grad_out."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.exponential import exponential
from dhhpc_kernels.parallel import run_shares

F = np.float32
BLOCK = 1024  # pixels taken at once: their temporaries stay in the first-level cache


def flat(array: np.ndarray) -> np.ndarray:
    """The array as a vector, never a copy. ValueError if it is not contiguous."""
    return array.reshape(-1, copy=False)


def planes(array: np.ndarray) -> np.ndarray:
    """An array (N,C,...) as (N,C,L), never a copy. ValueError if it is not contiguous."""
    return array.reshape(array.shape[0], array.shape[1], -1, copy=False)


# The compiler vectorises a loop only where it writes no array that it reads. For in-place calls to be as fast
# as others, each block of results goes through a buffer of its own.


@compile_kernel
def _copy(source: np.ndarray, target: np.ndarray) -> None:
    for i in range(target.size):
        target[i] = source[i]


@compile_kernel
def _relu_forward(x: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = x[start:stop]
        for i in range(value.size):
            buffer[i] = F(0) if value[i] <= F(0) else value[i]
        _copy(buffer, out[start:stop])


@compile_kernel
def _relu_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray, first: int, last: int) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        result = out[start:stop]
        gradient = grad_out[start:stop]
        for i in range(result.size):
            buffer[i] = F(0) if result[i] <= F(0) else gradient[i]
        _copy(buffer, grad_x[start:stop])


@compile_kernel
def _sigmoid_forward(x: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = x[start:stop]
        for i in range(value.size):
            buffer[i] = F(1) / (F(1) + exponential(-value[i]))
        _copy(buffer, out[start:stop])


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
        _copy(buffer, grad_x[start:stop])


@compile_kernel
def column_maxima(x: np.ndarray, n: int, first: int, size: int, maxima: np.ndarray) -> None:
    """maxima[i] = the largest over all channels of x[n, :, first + i], i below size."""
    line = x[n, 0, first : first + size]
    for i in range(size):
        maxima[i] = line[i]
    for c in range(1, x.shape[1]):
        line = x[n, c, first : first + size]
        for i in range(size):
            maxima[i] = line[i] if line[i] > maxima[i] else maxima[i]


@compile_kernel
def _softmax_forward(x: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    _, channels, length = x.shape
    largest = np.empty(BLOCK, np.float32)
    total = np.empty(BLOCK, np.float32)
    buffer = np.empty(BLOCK, np.float32)
    for n in range(begin, end):
        for first in range(0, length, BLOCK):
            size = min(BLOCK, length - first)
            column_maxima(x, n, first, size, largest)
            for i in range(size):
                total[i] = F(0)
            for c in range(channels):
                source = x[n, c, first : first + size]
                for i in range(size):
                    buffer[i] = exponential(source[i] - largest[i])
                    total[i] += buffer[i]
                _copy(buffer, out[n, c, first : first + size])
            for i in range(size):
                total[i] = F(1) / total[i]
            for c in range(channels):
                target = out[n, c, first : first + size]
                for i in range(size):
                    target[i] *= total[i]


@compile_kernel
def _softmax_backward(
    out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray, begin: int, end: int
) -> None:
    _, channels, length = out.shape
    total = np.empty(BLOCK, np.float32)
    buffer = np.empty(BLOCK, np.float32)
    for n in range(begin, end):
        for first in range(0, length, BLOCK):
            size = min(BLOCK, length - first)
            for i in range(size):
                total[i] = F(0)
            for c in range(channels):
                probability = out[n, c, first : first + size]
                gradient = grad_out[n, c, first : first + size]
                for i in range(size):
                    total[i] += probability[i] * gradient[i]
            for c in range(channels):
                probability = out[n, c, first : first + size]
                gradient = grad_out[n, c, first : first + size]
                for i in range(size):
                    buffer[i] = probability[i] * (gradient[i] - total[i])
                _copy(buffer, grad_x[n, c, first : first + size])


def relu_forward(x: np.ndarray, out: np.ndarray) -> None:
    """out = max(x, 0), float32 of any shape. NaN stays NaN."""
    run_shares(_relu_forward, out.size, out.size, flat(x), flat(out))


def relu_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x = grad_out where out > 0, else 0."""
    run_shares(_relu_backward, grad_x.size, grad_x.size, flat(out), flat(grad_out), flat(grad_x))


def sigmoid_forward(x: np.ndarray, out: np.ndarray) -> None:
    """out = 1 / (1 + exp(-x)), float32 of any shape."""
    run_shares(_sigmoid_forward, out.size, out.size, flat(x), flat(out))


def sigmoid_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x = grad_out * out * (1 - out)."""
    run_shares(_sigmoid_backward, grad_x.size, grad_x.size, flat(out), flat(grad_out), flat(grad_x))


def softmax_forward(x: np.ndarray, out: np.ndarray) -> None:
    """out = exp(x) / sum over axis 1 of exp(x), float32 (N,C) or (N,C,H,W); stable for large x."""
    run_shares(_softmax_forward, out.shape[0], out.size, planes(x), planes(out))


def softmax_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x = out * (grad_out - sum over axis 1 of grad_out * out)."""
    run_shares(_softmax_backward, grad_x.shape[0], grad_x.size, planes(out), planes(grad_out), planes(grad_x))
