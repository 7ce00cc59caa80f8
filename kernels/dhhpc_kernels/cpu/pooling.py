"""Max and average pooling. Windows that reach into the padding cover their real pixels only."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel

Pair = tuple[int, int]
F = np.float32


@compile_kernel
def _max_forward(x, out, indices, kernel, stride, padding):
    batch, channels, height_x, width_x = x.shape
    height, width = out.shape[2:]
    for n in range(batch):
        for c in range(channels):
            for row in range(height):
                top = row * stride[0] - padding[0]
                bottom = min(top + kernel[0], height_x)
                top = max(top, 0)
                for column in range(width):
                    left = column * stride[1] - padding[1]
                    right = min(left + kernel[1], width_x)
                    left = max(left, 0)
                    best = F(-np.inf)
                    place = top * width_x + left
                    for y in range(top, bottom):
                        for position in range(left, right):
                            value = x[n, c, y, position]
                            if value > best or value != value:
                                best = value
                                place = y * width_x + position
                    out[n, c, row, column] = best
                    indices[n, c, row, column] = place


@compile_kernel
def _max_backward(grad_out, indices, grad_x):
    count, size = grad_out.shape
    for plane in range(count):
        grad_x[plane, :] = F(0)
        for i in range(size):
            grad_x[plane, indices[plane, i]] += grad_out[plane, i]


@compile_kernel
def _average_forward(x, out, kernel, stride, padding):
    batch, channels, height_x, width_x = x.shape
    height, width = out.shape[2:]
    for n in range(batch):
        for c in range(channels):
            for row in range(height):
                top = row * stride[0] - padding[0]
                bottom = min(top + kernel[0], height_x)
                top = max(top, 0)
                for column in range(width):
                    left = column * stride[1] - padding[1]
                    right = min(left + kernel[1], width_x)
                    left = max(left, 0)
                    total = F(0)
                    for y in range(top, bottom):
                        for position in range(left, right):
                            total += x[n, c, y, position]
                    out[n, c, row, column] = total / F(max((bottom - top) * (right - left), 1))


@compile_kernel
def _average_backward(grad_out, grad_x, kernel, stride, padding):
    batch, channels, height_x, width_x = grad_x.shape
    height, width = grad_out.shape[2:]
    for n in range(batch):
        for c in range(channels):
            grad_x[n, c, :, :] = F(0)
            for row in range(height):
                top = row * stride[0] - padding[0]
                bottom = min(top + kernel[0], height_x)
                top = max(top, 0)
                for column in range(width):
                    left = column * stride[1] - padding[1]
                    right = min(left + kernel[1], width_x)
                    left = max(left, 0)
                    share = grad_out[n, c, row, column] / F(max((bottom - top) * (right - left), 1))
                    for y in range(top, bottom):
                        for position in range(left, right):
                            grad_x[n, c, y, position] += share


def max_pooling_forward(
    x: np.ndarray, out: np.ndarray, indices: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """out (N,C,OH,OW) = largest value of each window of x (N,C,H,W), NaN if it holds one.

    indices (int32, shape of out) = where it stood in its plane, row * W + column; the first one on a tie. Padding
    never wins. Rows and columns of windows are as many as out has, so a ceiling-mode output works too.
    """
    _max_forward(x, out, indices, kernel, stride, padding)


def max_pooling_backward(grad_out: np.ndarray, indices: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x (N,C,H,W) = grad_out (N,C,OH,OW) added up at `indices`, 0 elsewhere."""
    count = grad_out.shape[0] * grad_out.shape[1]
    _max_backward(
        grad_out.reshape(count, -1, copy=False),
        indices.reshape(count, -1, copy=False),
        grad_x.reshape(count, -1, copy=False),
    )


def average_pooling_forward(
    x: np.ndarray, out: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """out (N,C,OH,OW) = mean of each window of x (N,C,H,W); padding is not counted."""
    _average_forward(x, out, kernel, stride, padding)


def average_pooling_backward(
    grad_out: np.ndarray, grad_x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair
) -> None:
    """grad_x (N,C,H,W) = each value of grad_out shared evenly among its window."""
    _average_backward(grad_out, grad_x, kernel, stride, padding)
