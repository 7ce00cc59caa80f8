"""Softmax over axis 1. It may run in place: out may be x, grad_x may be grad_out."""

from collections.abc import Callable

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.activations import copy
from dhhpc_kernels.cpu.exponential import exponential
from dhhpc_kernels.cpu.views import BLOCK, planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
_LANES = 64  # maxima that are kept side by side, so that the search vectorises


@compile_kernel
def largest_of(row: np.ndarray) -> np.float32:
    """The largest value that is not NaN, minus infinity without one."""
    lanes = np.full(_LANES, -np.inf, np.float32)
    whole = row.size // _LANES * _LANES
    for first in range(0, whole, _LANES):
        part = row[first : first + _LANES]
        for i in range(_LANES):
            lanes[i] = part[i] if part[i] > lanes[i] else lanes[i]
    largest = F(-np.inf)
    for i in range(_LANES):
        largest = max(largest, lanes[i])
    for i in range(whole, row.size):
        largest = row[i] if row[i] > largest else largest
    return largest


@compile_kernel
def _forward_of_rows(x: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
    """Channels side by side in memory."""
    channels = x.shape[1]
    buffer = np.empty(BLOCK, np.float32)
    for n in range(begin, end):
        largest = largest_of(x[n])
        total = np.float64(0)
        for first in range(0, channels, BLOCK):
            value = x[n, first : first + BLOCK]
            part = F(0)
            for i in range(value.size):
                buffer[i] = exponential(value[i] - largest)
                part += buffer[i]
            total += np.float64(part)
            copy(buffer, out[n, first : first + BLOCK])
        share = F(1 / total)
        result = out[n]
        for i in range(channels):
            result[i] *= share


@compile_kernel
def _backward_of_rows(
    out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray, begin: int, end: int
) -> None:
    channels = out.shape[1]
    buffer = np.empty(BLOCK, np.float32)
    for n in range(begin, end):
        probability = out[n]
        gradient = grad_out[n]
        total = F(0)
        for i in range(channels):
            total += probability[i] * gradient[i]
        for first in range(0, channels, BLOCK):
            probability = out[n, first : first + BLOCK]
            gradient = grad_out[n, first : first + BLOCK]
            for i in range(probability.size):
                buffer[i] = probability[i] * (gradient[i] - total)
            copy(buffer, grad_x[n, first : first + BLOCK])


@compile_part
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
def _forward_of_planes(x: np.ndarray, out: np.ndarray, begin: int, end: int) -> None:
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
                copy(buffer, out[n, c, first : first + size])
            for i in range(size):
                total[i] = F(1) / total[i]
            for c in range(channels):
                target = out[n, c, first : first + size]
                for i in range(size):
                    target[i] *= total[i]


@compile_kernel
def _backward_of_planes(
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
                copy(buffer, grad_x[n, c, first : first + size])


def _run(of_rows: Callable[..., None], of_planes: Callable[..., None], *arrays: np.ndarray) -> None:
    batch, channels = arrays[0].shape[:2]
    size = arrays[0].size
    if size == batch * channels:
        rows = (array.reshape(batch, channels, copy=False) for array in arrays)
        run_shares(of_rows, batch, size, *rows)
    else:
        run_shares(of_planes, batch, size, *(planes(array) for array in arrays))


def softmax_forward(x: np.ndarray, out: np.ndarray) -> None:
    """out = exp(x) / sum over axis 1 of exp(x), float32 (N,C) or (N,C,...); stable for large x."""
    _run(_forward_of_rows, _forward_of_planes, x, out)


def softmax_backward(out: np.ndarray, grad_out: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x = out * (grad_out - sum over axis 1 of grad_out * out)."""
    _run(_backward_of_rows, _backward_of_planes, out, grad_out, grad_x)
