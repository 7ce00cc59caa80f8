"""Upsampling by nearest neighbour or bilinear interpolation (pixel centres at half integers)."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares

F = np.float32


@compile_kernel
def _widen(line: np.ndarray, wide: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> None:
    for i in range(wide.size):
        left = line[columns[i, 0]]
        wide[i] = left + weights[i] * (line[columns[i, 1]] - left)


@compile_kernel
def _forward(
    x: np.ndarray,
    out: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Widen each row of x once, then blend two of them into each row of out."""
    _, height_x, _ = x.shape
    height, width = out.shape[1:]
    wide = np.empty((height_x, width), np.float32)
    for plane in range(begin, end):
        for y in range(height_x):
            _widen(x[plane, y], wide[y], columns, column_weights)
        for row in range(height):
            upper = wide[rows[row, 0]]
            lower = wide[rows[row, 1]]
            weight = row_weights[row]
            target = out[plane, row]
            if weight == F(0):
                for i in range(width):
                    target[i] = upper[i]
            else:
                for i in range(width):
                    target[i] = upper[i] + weight * (lower[i] - upper[i])


@compile_kernel
def _backward(
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """The same in reverse: gather the rows of grad_out, then the columns."""
    _, height_x, _ = grad_x.shape
    height, width = grad_out.shape[1:]
    wide = np.empty((height_x, width), np.float32)
    for plane in range(begin, end):
        wide[:, :] = F(0)
        for row in range(height):
            source = grad_out[plane, row]
            upper = wide[rows[row, 0]]
            lower = wide[rows[row, 1]]
            weight = row_weights[row]
            if weight == F(0):
                for i in range(width):
                    upper[i] += source[i]
            else:
                for i in range(width):
                    upper[i] += (F(1) - weight) * source[i]
                for i in range(width):
                    lower[i] += weight * source[i]
        for y in range(height_x):
            target = grad_x[plane, y]
            target[:] = F(0)
            for i in range(width):
                value = wide[y, i]
                share = column_weights[i] * value
                target[columns[i, 0]] += value - share
                target[columns[i, 1]] += share


def _sources(size_x: int, size: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each output position: its two source positions (uint32) and the weight of the second (float32)."""
    positions = np.arange(size)
    if mode == "nearest":
        first = positions * size_x // size
        return np.stack([first, first], axis=1).astype(np.uint32), np.zeros(size, np.float32)
    if mode == "bilinear":
        place = np.maximum((positions + 0.5) * (size_x / size) - 0.5, 0.0)
        first = np.minimum(place.astype(np.int64), size_x - 1)
        second = np.minimum(first + 1, size_x - 1)
        return np.stack([first, second], axis=1).astype(np.uint32), (place - first).astype(np.float32)
    raise ValueError(f"upsampling mode is 'nearest' or 'bilinear', not {mode!r}")


def upsample_forward(x: np.ndarray, out: np.ndarray, mode: str) -> None:
    """out (N,C,OH,OW) = x (N,C,H,W) at the larger size.

    mode: "nearest", or "bilinear" as PyTorch's with align_corners=False. ValueError for another mode.
    """
    rows, row_weights = _sources(x.shape[2], out.shape[2], mode)
    columns, column_weights = _sources(x.shape[3], out.shape[3], mode)
    run_shares(
        _forward,
        out.shape[0] * out.shape[1],
        out.size,
        x.reshape(-1, *x.shape[2:], copy=False),
        out.reshape(-1, *out.shape[2:], copy=False),
        rows,
        row_weights,
        columns,
        column_weights,
    )


def upsample_backward(grad_out: np.ndarray, grad_x: np.ndarray, mode: str) -> None:
    """grad_x (N,C,H,W) = gradient of upsample_forward from grad_out (N,C,OH,OW)."""
    rows, row_weights = _sources(grad_x.shape[2], grad_out.shape[2], mode)
    columns, column_weights = _sources(grad_x.shape[3], grad_out.shape[3], mode)
    run_shares(
        _backward,
        grad_out.shape[0] * grad_out.shape[1],
        grad_out.size,
        grad_out.reshape(-1, *grad_out.shape[2:], copy=False),
        grad_x.reshape(-1, *grad_x.shape[2:], copy=False),
        rows,
        row_weights,
        columns,
        column_weights,
    )
