"""Max and average pooling in one to three dimensions, all seen as three: a line is a volume of one row.

Windows that reach into the padding cover their real pixels only.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.window_maximum import Triple, maximum_backward, maximum_forward, window_extent
from dhhpc_kernels.parallel import run_shares

Numbers = tuple[int, ...]
F = np.float32

# Each kernel first combines the lines of a window over the whole width, which vectorises, then the columns.


@compile_part
def _reach(offset: int, stride: int, size_x: int, size: int) -> tuple[int, int, int]:
    """The windows (first, last) whose tap at `offset` from their start lies inside, and the first's tap."""
    first = max(0, -(offset // stride))
    last = max(first, min(size, (size_x - 1 - offset) // stride + 1))
    return first, last, first * stride + offset


@compile_part
def _column_shares(size: int, kernel: int, stride: int, padding: int, size_x: int) -> np.ndarray:
    """1 / the real columns of each window of a row."""
    shares = np.empty(size, np.float32)
    for i in range(size):
        left, right = window_extent(i, kernel, stride, padding, size_x)
        shares[i] = F(1) / F(right - left)
    return shares


@compile_part
def _add_every(values: np.ndarray, step: int, target: np.ndarray) -> None:
    """Add every step-th of values to target."""
    for i in range(target.size):
        target[i] += values[i * step]


@compile_kernel
def _average_forward(
    x: np.ndarray, out: np.ndarray, kernel: Triple, stride: Triple, padding: Triple, begin: int, end: int
) -> None:
    _, depth_x, height_x, width_x = x.shape
    depth, height, width = out.shape[1:]
    sums = np.empty(width_x, np.float32)
    parts = _column_shares(width, kernel[2], stride[2], padding[2], width_x)
    for plane in range(begin, end):
        for row in range(depth * height):
            front, back = window_extent(row // height, kernel[0], stride[0], padding[0], depth_x)
            top, bottom = window_extent(row % height, kernel[1], stride[1], padding[1], height_x)
            sums[:] = F(0)
            for z in range(front, back):
                for y in range(top, bottom):
                    line = x[plane, z, y]
                    for i in range(width_x):
                        sums[i] += line[i]
            values = out[plane, row // height, row % height]
            values[:] = F(0)
            for tap in range(kernel[2]):
                first, last, start = _reach(tap - padding[2], stride[2], width_x, width)
                target = values[first:last]
                # A constant step vectorises.
                if stride[2] == 1:
                    _add_every(sums[start:], 1, target)
                elif stride[2] == 2:
                    _add_every(sums[start:], 2, target)
                else:
                    _add_every(sums[start:], stride[2], target)
            share = F(1) / F((back - front) * (bottom - top))
            for i in range(width):
                values[i] *= share * parts[i]


@compile_kernel
def _average_backward(
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    kernel: Triple,
    stride: Triple,
    padding: Triple,
    begin: int,
    end: int,
) -> None:
    _, depth_x, height_x, width_x = grad_x.shape
    depth, height, width = grad_out.shape[1:]
    shares = np.empty(width_x, np.float32)
    parts = _column_shares(width, kernel[2], stride[2], padding[2], width_x)
    for plane in range(begin, end):
        grad_x[plane, :, :, :] = F(0)
        for row in range(depth * height):
            front, back = window_extent(row // height, kernel[0], stride[0], padding[0], depth_x)
            top, bottom = window_extent(row % height, kernel[1], stride[1], padding[1], height_x)
            shares[:] = F(0)
            values = grad_out[plane, row // height, row % height]
            share = F(1) / F((back - front) * (bottom - top))
            for tap in range(kernel[2]):
                first, last, start = _reach(tap - padding[2], stride[2], width_x, width)
                target = shares[start:]
                for i in range(last - first):
                    target[i * stride[2]] += share * parts[first + i] * values[first + i]
            for z in range(front, back):
                for y in range(top, bottom):
                    line = grad_x[plane, z, y]
                    for i in range(width_x):
                        line[i] += shares[i]


def _volumes(array: np.ndarray) -> np.ndarray:
    """(N,C,L), (N,C,H,W) or (N,C,D,H,W) as (N*C,D,H,W), never a copy. ValueError if not contiguous."""
    spatial = array.shape[2:]
    return array.reshape(-1, *(1,) * (3 - len(spatial)), *spatial, copy=False)


def _triple(numbers: tuple[int, ...], missing: int) -> tuple[int, ...]:
    """One number for each of depth, height and width."""
    return (missing,) * (3 - len(numbers)) + tuple(numbers)


def _window(
    x: np.ndarray, out: np.ndarray, kernel: Numbers, stride: Numbers, padding: Numbers
) -> tuple[tuple[int, ...], ...]:
    """The options as triples. ValueError if a window would hold padding only: it has no maximum, no mean."""
    for size_x, size, k, s, p in zip(x.shape[2:], out.shape[2:], kernel, stride, padding, strict=True):
        if p >= k or (size - 1) * s - p >= size_x:
            raise ValueError(
                f"pooling of {x.shape} to {out.shape} with kernel {kernel}, stride {stride} and padding "
                f"{padding} has a window without a pixel"
            )
    return _triple(kernel, 1), _triple(stride, 1), _triple(padding, 0)


def max_pooling_forward(
    x: np.ndarray, out: np.ndarray, indices: np.ndarray, kernel: Numbers, stride: Numbers, padding: Numbers
) -> None:
    """out (N,C,OD,OH,OW) = largest value of each window of x (N,C,D,H,W), NaN if it holds one.

    Likewise without D, or without D and H; kernel, stride and padding hold a number for each axis.
    indices (int32, shape of out) = where it stood in its channel, (d * H + row) * W + column; the first one
    on a tie. Padding never wins. There are as many windows as out has pixels, so a ceiling-mode output works
    too. ValueError if a window would hold padding only.
    """
    window = _window(x, out, kernel, stride, padding)
    arrays = _volumes(x), _volumes(out), _volumes(indices)
    run_shares(maximum_forward, x.shape[0] * x.shape[1], x.size, *arrays, *window)


def max_pooling_backward(grad_out: np.ndarray, indices: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x (N,C,...) = grad_out (N,C,...) added up at `indices`, 0 elsewhere."""
    count = grad_out.shape[0] * grad_out.shape[1]
    arrays = (array.reshape(count, -1, copy=False) for array in (grad_out, indices, grad_x))
    run_shares(maximum_backward, count, grad_x.size, *arrays)


def average_pooling_forward(
    x: np.ndarray, out: np.ndarray, kernel: Numbers, stride: Numbers, padding: Numbers
) -> None:
    """out (N,C,OD,OH,OW) = mean of each window of x (N,C,D,H,W); padding is not counted. Axes as above."""
    window = _window(x, out, kernel, stride, padding)
    run_shares(_average_forward, x.shape[0] * x.shape[1], x.size, _volumes(x), _volumes(out), *window)


def average_pooling_backward(
    grad_out: np.ndarray, grad_x: np.ndarray, kernel: Numbers, stride: Numbers, padding: Numbers
) -> None:
    """grad_x (N,C,D,H,W) = each value of grad_out shared evenly among its window."""
    window = _window(grad_x, grad_out, kernel, stride, padding)
    count = grad_x.shape[0] * grad_x.shape[1]
    run_shares(_average_backward, count, grad_x.size, _volumes(grad_out), _volumes(grad_x), *window)
