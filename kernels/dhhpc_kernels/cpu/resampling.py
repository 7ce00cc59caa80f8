"""Upsampling of lines, images and volumes by nearest neighbour or linear interpolation along each axis.

Pixel centres lie at half integers. All are seen as volumes: an image has one slab, a line one row of it.
"""

from collections.abc import Callable

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.parallel import run_shares

F = np.float32
_LINEAR = ("linear", "bilinear", "trilinear")


@compile_part
def _widen(line: np.ndarray, wide: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> None:
    for i in range(wide.size):
        left = line[columns[i, 0]]
        wide[i] = left + weights[i] * (line[columns[i, 1]] - left)


@compile_part
def _blend(first: np.ndarray, second: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    if weight == F(0):
        for i in range(out.size):
            out[i] = first[i]
    else:
        for i in range(out.size):
            out[i] = first[i] + weight * (second[i] - first[i])


@compile_kernel
def _forward(
    x: np.ndarray,
    out: np.ndarray,
    slabs: np.ndarray,
    slab_weights: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Widen each line of x once, then blend up to four of them into each line of out."""
    _, depth_x, height_x, _ = x.shape
    depth, height, width = out.shape[1:]
    wide = np.empty((depth_x, height_x, width), np.float32)
    front = np.empty(width, np.float32)
    back = np.empty(width, np.float32)
    for plane in range(begin, end):
        for z in range(depth_x):
            for y in range(height_x):
                _widen(x[plane, z, y], wide[z, y], columns, column_weights)
        for line in range(depth * height):
            slab = line // height
            row = line % height
            near = wide[slabs[slab, 0]]
            far = wide[slabs[slab, 1]]
            weight = slab_weights[slab]
            upper = rows[row, 0]
            lower = rows[row, 1]
            target = out[plane, slab, row]
            if weight == F(0):
                _blend(near[upper], near[lower], row_weights[row], target)
            else:
                _blend(near[upper], near[lower], row_weights[row], front)
                _blend(far[upper], far[lower], row_weights[row], back)
                _blend(front, back, weight, target)


@compile_kernel
def _add(values: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    if weight != F(0):
        for i in range(out.size):
            out[i] += weight * values[i]


@compile_kernel
def _backward(
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    slabs: np.ndarray,
    slab_weights: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """The same in reverse: gather the lines of grad_out, then the columns."""
    _, depth_x, height_x, _ = grad_x.shape
    depth, height, width = grad_out.shape[1:]
    wide = np.empty((depth_x, height_x, width), np.float32)
    for plane in range(begin, end):
        wide[:, :, :] = F(0)
        for line in range(depth * height):
            slab = line // height
            row = line % height
            source = grad_out[plane, slab, row]
            near = wide[slabs[slab, 0]]
            far = wide[slabs[slab, 1]]
            back = slab_weights[slab]
            lower = row_weights[row]
            _add(source, (F(1) - back) * (F(1) - lower), near[rows[row, 0]])
            _add(source, (F(1) - back) * lower, near[rows[row, 1]])
            _add(source, back * (F(1) - lower), far[rows[row, 0]])
            _add(source, back * lower, far[rows[row, 1]])
        for z in range(depth_x):
            for y in range(height_x):
                target = grad_x[plane, z, y]
                target[:] = F(0)
                for i in range(width):
                    value = wide[z, y, i]
                    share = column_weights[i] * value
                    target[columns[i, 0]] += value - share
                    target[columns[i, 1]] += share


def _sources(size_x: int, size: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each output position: its two source positions (uint32) and the weight of the second (float32)."""
    positions = np.arange(size)
    if mode == "nearest":
        first = positions * size_x // size
        return np.stack([first, first], axis=1).astype(np.uint32), np.zeros(size, np.float32)
    if mode in _LINEAR:
        place = np.maximum((positions + 0.5) * (size_x / size) - 0.5, 0.0)
        first = np.minimum(place.astype(np.int64), size_x - 1)
        second = np.minimum(first + 1, size_x - 1)
        return np.stack([first, second], axis=1).astype(np.uint32), (place - first).astype(np.float32)
    raise ValueError(f"upsampling mode is 'nearest' or one of {_LINEAR}, not {mode!r}")


def _upsample(
    kernel: Callable[..., None], source: np.ndarray, out: np.ndarray, backward: bool, mode: str
) -> None:
    """Run a kernel on arrays seen as (N*C,D,H,W)."""
    source, out = (
        array.reshape(-1, *(1,) * (5 - array.ndim), *array.shape[2:], copy=False) for array in (source, out)
    )
    small, large = (out, source) if backward else (source, out)
    places = [
        table
        for size_x, size in zip(small.shape[1:], large.shape[1:], strict=True)
        for table in _sources(size_x, size, mode)
    ]
    run_shares(kernel, source.shape[0], large.size, source, out, *places)


def upsample_forward(x: np.ndarray, out: np.ndarray, mode: str) -> None:
    """out (N,C,OD,OH,OW) = x (N,C,D,H,W) at the larger size; likewise without D, or without D and H.

    mode: "nearest", or linear along every axis ("linear", "bilinear" or "trilinear", which are one) as
    PyTorch's with align_corners=False. ValueError for another mode.
    """
    _upsample(_forward, x, out, False, mode)


def upsample_backward(grad_out: np.ndarray, grad_x: np.ndarray, mode: str) -> None:
    """grad_x (N,C,...) = gradient of upsample_forward from grad_out (N,C,...)."""
    _upsample(_backward, grad_out, grad_x, True, mode)
