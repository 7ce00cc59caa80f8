"""Max and average pooling. Windows that reach into the padding cover their real pixels only."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares

Pair = tuple[int, int]
F = np.float32


# Each kernel first combines the rows of a window over the whole width, which vectorises, then the columns.


@compile_kernel
def _take_larger(
    values: np.ndarray, places: np.ndarray, step: int, best: np.ndarray, where: np.ndarray
) -> None:
    """Put every step-th of values and its place into best and where, if larger; NaN is the largest."""
    for i in range(best.size):
        value = values[i * step]
        place = places[i * step]
        # Of equal values the first in row-major order wins.
        larger = (value > best[i]) | (value != value) | ((value == best[i]) & (place < where[i]))
        best[i] = value if larger else best[i]
        where[i] = place if larger else where[i]


@compile_kernel
def _max_forward(
    x: np.ndarray,
    out: np.ndarray,
    indices: np.ndarray,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    begin: int,
    end: int,
) -> None:
    _, height_x, width_x = x.shape
    height, width = out.shape[1:]
    largest = np.empty(width_x, np.float32)
    places = np.empty(width_x, np.int32)
    for plane in range(begin, end):
        for row in range(height):
            top = max(row * stride[0] - padding[0], 0)
            bottom = min(row * stride[0] - padding[0] + kernel[0], height_x)
            line = x[plane, top]
            for i in range(width_x):
                largest[i] = line[i]
                places[i] = np.int32(top * width_x + i)
            for y in range(top + 1, bottom):
                line = x[plane, y]
                for i in range(width_x):
                    value = line[i]
                    larger = (value > largest[i]) | (value != value)
                    largest[i] = value if larger else largest[i]
                    places[i] = np.int32(y * width_x + i) if larger else places[i]
            values = out[plane, row]
            wheres = indices[plane, row]
            for i in range(width):
                values[i] = F(-np.inf)
                wheres[i] = np.int32(2**31 - 1)
            for tap in range(kernel[1]):
                offset = tap - padding[1]
                first = max(0, -(offset // stride[1]))
                last = max(first, min(width, (width_x - 1 - offset) // stride[1] + 1))
                tap_values = largest[first * stride[1] + offset :]
                tap_places = places[first * stride[1] + offset :]
                best = values[first:last]
                where = wheres[first:last]
                # A constant step vectorises.
                if stride[1] == 1:
                    _take_larger(tap_values, tap_places, 1, best, where)
                elif stride[1] == 2:
                    _take_larger(tap_values, tap_places, 2, best, where)
                else:
                    _take_larger(tap_values, tap_places, stride[1], best, where)


@compile_kernel
def _max_backward(
    grad_out: np.ndarray, indices: np.ndarray, grad_x: np.ndarray, begin: int, end: int
) -> None:
    _, size = grad_out.shape
    for plane in range(begin, end):
        target = grad_x[plane]
        target[:] = F(0)
        for i in range(size):
            target[np.uint32(indices[plane, i])] += grad_out[plane, i]


@compile_kernel
def _average_forward(
    x: np.ndarray, out: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, begin: int, end: int
) -> None:
    _, height_x, width_x = x.shape
    height, width = out.shape[1:]
    sums = np.empty(width_x, np.float32)
    for plane in range(begin, end):
        for row in range(height):
            top = max(row * stride[0] - padding[0], 0)
            bottom = min(row * stride[0] - padding[0] + kernel[0], height_x)
            line = x[plane, top]
            for i in range(width_x):
                sums[i] = line[i]
            for y in range(top + 1, bottom):
                line = x[plane, y]
                for i in range(width_x):
                    sums[i] += line[i]
            values = out[plane, row]
            for i in range(width):
                left = max(i * stride[1] - padding[1], 0)
                right = min(i * stride[1] - padding[1] + kernel[1], width_x)
                total = F(0)
                for position in range(left, right):
                    total += sums[position]
                values[i] = total / F((bottom - top) * (right - left))


@compile_kernel
def _average_backward(
    grad_out: np.ndarray, grad_x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair, begin: int, end: int
) -> None:
    _, height_x, width_x = grad_x.shape
    height, width = grad_out.shape[1:]
    shares = np.empty(width_x, np.float32)
    for plane in range(begin, end):
        grad_x[plane, :, :] = F(0)
        for row in range(height):
            top = max(row * stride[0] - padding[0], 0)
            bottom = min(row * stride[0] - padding[0] + kernel[0], height_x)
            shares[:] = F(0)
            values = grad_out[plane, row]
            for i in range(width):
                left = max(i * stride[1] - padding[1], 0)
                right = min(i * stride[1] - padding[1] + kernel[1], width_x)
                share = values[i] / F((bottom - top) * (right - left))
                for position in range(left, right):
                    shares[position] += share
            for y in range(top, bottom):
                line = grad_x[plane, y]
                for i in range(width_x):
                    line[i] += shares[i]


def _planes(array: np.ndarray) -> np.ndarray:
    """An array (N,C,H,W) as (N*C,H,W), never a copy. ValueError if it is not contiguous."""
    return array.reshape(-1, *array.shape[2:], copy=False)


def _check_windows(x: np.ndarray, out: np.ndarray, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """ValueError if a window would hold padding only: it has no largest value and no mean."""
    for axis, size_x, size in zip((0, 1), x.shape[2:], out.shape[2:], strict=True):
        if padding[axis] >= kernel[axis] or (size - 1) * stride[axis] - padding[axis] >= size_x:
            raise ValueError(
                f"pooling of {x.shape} to {out.shape} with kernel {kernel}, stride {stride} and padding "
                f"{padding} has a window without a pixel"
            )


def max_pooling_forward(
    x: np.ndarray, out: np.ndarray, indices: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """out (N,C,OH,OW) = largest value of each window of x (N,C,H,W), NaN if it holds one.

    indices (int32, shape of out) = where it stood in its plane, row * W + column; the first one on a tie.
    Padding never wins. There are as many windows as out has pixels, so a ceiling-mode output works too.
    ValueError if a window would hold padding only.
    """
    _check_windows(x, out, kernel, stride, padding)
    run_shares(
        _max_forward,
        x.shape[0] * x.shape[1],
        x.size,
        _planes(x),
        _planes(out),
        _planes(indices),
        kernel,
        stride,
        padding,
    )


def max_pooling_backward(grad_out: np.ndarray, indices: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x (N,C,H,W) = grad_out (N,C,OH,OW) added up at `indices`, 0 elsewhere."""
    count = grad_out.shape[0] * grad_out.shape[1]
    run_shares(
        _max_backward,
        count,
        grad_x.size,
        grad_out.reshape(count, -1, copy=False),
        indices.reshape(count, -1, copy=False),
        grad_x.reshape(count, -1, copy=False),
    )


def average_pooling_forward(
    x: np.ndarray, out: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """out (N,C,OH,OW) = mean of each window of x (N,C,H,W); padding is not counted."""
    _check_windows(x, out, kernel, stride, padding)
    run_shares(
        _average_forward, x.shape[0] * x.shape[1], x.size, _planes(x), _planes(out), kernel, stride, padding
    )


def average_pooling_backward(
    grad_out: np.ndarray, grad_x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """grad_x (N,C,H,W) = each value of grad_out shared evenly among its window."""
    _check_windows(grad_x, grad_out, kernel, stride, padding)
    run_shares(
        _average_backward,
        grad_x.shape[0] * grad_x.shape[1],
        grad_x.size,
        _planes(grad_out),
        _planes(grad_x),
        kernel,
        stride,
        padding,
    )
