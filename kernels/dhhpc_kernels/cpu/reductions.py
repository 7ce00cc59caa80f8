"""Sums, means and maxima over neighbouring axes: an array is seen as (outer, length, inner)."""

import math

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.views import BLOCK
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


@compile_kernel
def _sum(x: np.ndarray, out: np.ndarray, scale: float, begin: int, end: int) -> None:
    _, length, inner = x.shape
    blocks = (inner + BLOCK - 1) // BLOCK
    totals = np.empty(BLOCK, np.float64)
    for unit in range(begin, end):
        o = unit // blocks
        first = unit % blocks * BLOCK
        if inner == 1:
            row = x[o].reshape(-1)
            total = D(0)
            for i in range(length):
                total += D(row[i])
            out[o, 0] = total * scale
            continue
        target = out[o, first : first + BLOCK]
        totals[:] = D(0)
        for k in range(length):
            values = x[o, k, first : first + BLOCK]
            for i in range(values.size):
                totals[i] += D(values[i])
        for i in range(target.size):
            target[i] = totals[i] * scale


@compile_kernel
def _spread(grad_out: np.ndarray, grad_x: np.ndarray, scale: np.float32, begin: int, end: int) -> None:
    _, length, inner = grad_x.shape
    for o in range(begin, end):
        for k in range(length):
            source = grad_out[o]
            target = grad_x[o, k]
            for i in range(inner):
                target[i] = scale * source[i]


@compile_kernel
def _maximum(x: np.ndarray, out: np.ndarray, places: np.ndarray, begin: int, end: int) -> None:
    _, length, inner = x.shape
    for o in range(begin, end):
        best = out[o]
        where = places[o]
        first = x[o, 0]
        for i in range(inner):
            best[i] = first[i]
            where[i] = 0
        for k in range(1, length):
            values = x[o, k]
            for i in range(inner):
                larger = (values[i] > best[i]) | (values[i] != values[i])
                best[i] = values[i] if larger else best[i]
                where[i] = np.int32(k) if larger else where[i]


@compile_kernel
def _maximum_backward(
    grad_out: np.ndarray, places: np.ndarray, grad_x: np.ndarray, begin: int, end: int
) -> None:
    for o in range(begin, end):
        grad_x[o, :, :] = F(0)
        for i in range(grad_x.shape[2]):
            grad_x[o, places[o, i], i] = grad_out[o, i]


def _split(x: np.ndarray, axis: int, count: int) -> tuple[int, int, int]:
    outer, length = math.prod(x.shape[:axis]), math.prod(x.shape[axis : axis + count])
    return outer, length, x.size // max(outer * length, 1)


def reduce_sum_forward(x: np.ndarray, out: np.ndarray, axis: int, count: int, mean: bool) -> None:
    """out = sum, or mean, of x over `count` axes from `axis` on. float32; summed in float64.

    out has x's elements without those axes, in whatever shape.
    """
    outer, length, inner = _split(x, axis, count)
    arrays = x.reshape(outer, length, inner, copy=False), out.reshape(outer, inner, copy=False)
    run_shares(_sum, outer * -(-inner // BLOCK), x.size, *arrays, 1 / length if mean else 1.0)


def reduce_sum_backward(grad_out: np.ndarray, grad_x: np.ndarray, axis: int, count: int, mean: bool) -> None:
    """grad_x = grad_out repeated along those axes, divided by their elements for a mean."""
    outer, length, inner = _split(grad_x, axis, count)
    arrays = grad_out.reshape(outer, inner, copy=False), grad_x.reshape(outer, length, inner, copy=False)
    run_shares(_spread, outer, grad_x.size, *arrays, F(1 / length if mean else 1))


def reduce_max_forward(x: np.ndarray, out: np.ndarray, places: np.ndarray, axis: int, count: int) -> None:
    """out = largest of x over `count` axes from `axis` on, NaN if there is one.

    places (int32, shape of out) = where it stood along them, the first one on a tie.
    """
    outer, length, inner = _split(x, axis, count)
    arrays = (array.reshape(outer, inner, copy=False) for array in (out, places))
    run_shares(_maximum, outer, x.size, x.reshape(outer, length, inner, copy=False), *arrays)


def reduce_max_backward(
    grad_out: np.ndarray, places: np.ndarray, grad_x: np.ndarray, axis: int, count: int
) -> None:
    """grad_x = grad_out at `places`, 0 elsewhere."""
    outer, length, inner = _split(grad_x, axis, count)
    arrays = (array.reshape(outer, inner, copy=False) for array in (grad_out, places))
    run_shares(
        _maximum_backward, outer, grad_x.size, *arrays, grad_x.reshape(outer, length, inner, copy=False)
    )


@compile_kernel
def _sum_channels(array: np.ndarray, sums: np.ndarray, first: int, last: int) -> None:
    batch, _, pixels = array.shape
    for c in range(first, last):
        total = np.float64(0)
        for n in range(batch):
            line = array[n, c]
            for i in range(pixels):
                total += np.float64(line[i])
        sums[c] = total


def sum_channels(array: np.ndarray, sums: np.ndarray) -> None:
    """sums (C,) = sum of array (N,C,...) over all but the channels, taken in float64."""
    planes = array.reshape(*array.shape[:2], -1, copy=False)
    run_shares(_sum_channels, array.shape[1], array.size, planes, sums)
