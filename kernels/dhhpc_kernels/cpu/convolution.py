"""Two-dimensional convolution (cross-correlation, as every deep-learning library calls it) and its gradients.

Lowered to matrix products over tiles of output rows: a tile's columns (im2col) stay in the second-level
cache, so the lowered matrix never exists as a whole (Chellapilla et al. 2006 give the lowering).
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel

Pair = tuple[int, int]

_TILE_FLOATS = 48 * 1024  # 192 KB of columns


def _tile_rows(channels: int, taps: int, rows: int, width: int) -> int:
    """Output rows a tile holds."""
    return max(1, min(rows, _TILE_FLOATS // max(1, channels * taps * width)))


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def convolution_workspace(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> int:
    """Number of float32 the three convolution functions need as workspace for these shapes."""
    kernels, channels, taps_y, taps_x = weight_shape
    taps = taps_y * taps_x
    rows = _output_size(x_shape[2], taps_y, stride[0], padding[0], dilation[0])
    width = _output_size(x_shape[3], taps_x, stride[1], padding[1], dilation[1])
    tile = channels * taps * width * _tile_rows(channels, taps, rows, width)
    return tile + kernels // groups * channels * taps


@compile_kernel
def _gather_columns(x, columns, taps, first_row, rows, width, stride, padding, dilation):
    """columns[(c, r, s), (row, column)] = x[c, row*stride + r*dilation - padding, ...], zero outside."""
    channels, height_x, width_x = x.shape
    line = 0
    for c in range(channels):
        for r in range(taps[0]):
            for s in range(taps[1]):
                start = s * dilation[1] - padding[1]
                for row in range(rows):
                    y = (first_row + row) * stride[0] + r * dilation[0] - padding[0]
                    target = columns[line, row * width : (row + 1) * width]
                    if y < 0 or y >= height_x:
                        target[:] = 0
                    else:
                        source = x[c, y]
                        for column in range(width):
                            position = start + column * stride[1]
                            target[column] = source[position] if 0 <= position < width_x else np.float32(0)
                line += 1


@compile_kernel
def _scatter_columns(columns, x, taps, first_row, rows, width, stride, padding, dilation):
    """x[c, row*stride + r*dilation - padding, ...] += columns[(c, r, s), (row, column)]."""
    channels, height_x, width_x = x.shape
    line = 0
    for c in range(channels):
        for r in range(taps[0]):
            for s in range(taps[1]):
                start = s * dilation[1] - padding[1]
                for row in range(rows):
                    y = (first_row + row) * stride[0] + r * dilation[0] - padding[0]
                    if 0 <= y < height_x:
                        source = columns[line, row * width : (row + 1) * width]
                        target = x[c, y]
                        for column in range(width):
                            position = start + column * stride[1]
                            if 0 <= position < width_x:
                                target[position] += source[column]
                line += 1


def convolution_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """out (N,K,OH,OW) = weight (K,C/groups,R,S) correlated with x (N,C,H,W), plus bias (K,). All float32."""
    batch, kernels, height, width = out.shape
    channels, taps = weight.shape[1], weight.shape[2:]
    depth, group_kernels = channels * taps[0] * taps[1], kernels // groups
    tile = _tile_rows(channels, taps[0] * taps[1], height, width)
    matrix = weight.reshape(groups, group_kernels, depth)
    lowered = out.reshape(batch, kernels, height * width)
    for n in range(batch):
        for g in range(groups):
            image = x[n, g * channels : (g + 1) * channels]
            for row in range(0, height, tile):
                rows = min(tile, height - row)
                columns = workspace[: depth * rows * width].reshape(depth, rows * width)
                _gather_columns(image, columns, taps, row, rows, width, stride, padding, dilation)
                target = lowered[
                    n, g * group_kernels : (g + 1) * group_kernels, row * width : (row + rows) * width
                ]
                np.matmul(matrix[g], columns, out=target)
    if bias is not None:
        np.add(out, bias[:, None, None], out=out)


def convolution_backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_x (N,C,H,W) = gradient of the loss by x, from grad_out (N,K,OH,OW) and weight (K,C/groups,R,S)."""
    batch, kernels, height, width = grad_out.shape
    channels, taps = weight.shape[1], weight.shape[2:]
    depth, group_kernels = channels * taps[0] * taps[1], kernels // groups
    tile = _tile_rows(channels, taps[0] * taps[1], height, width)
    matrix = weight.reshape(groups, group_kernels, depth)
    lowered = grad_out.reshape(batch, kernels, height * width)
    grad_x.fill(0)
    for n in range(batch):
        for g in range(groups):
            image = grad_x[n, g * channels : (g + 1) * channels]
            for row in range(0, height, tile):
                rows = min(tile, height - row)
                columns = workspace[: depth * rows * width].reshape(depth, rows * width)
                source = lowered[
                    n, g * group_kernels : (g + 1) * group_kernels, row * width : (row + rows) * width
                ]
                np.matmul(matrix[g].T, source, out=columns)
                _scatter_columns(columns, image, taps, row, rows, width, stride, padding, dilation)


def convolution_backward_weights(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_weight (K,C/groups,R,S), grad_bias (K,) = gradients of the loss by weight and bias."""
    batch, kernels, height, width = grad_out.shape
    channels, taps = grad_weight.shape[1], grad_weight.shape[2:]
    depth, group_kernels = channels * taps[0] * taps[1], kernels // groups
    tile = _tile_rows(channels, taps[0] * taps[1], height, width)
    matrix = grad_weight.reshape(groups, group_kernels, depth)
    lowered = grad_out.reshape(batch, kernels, height * width)
    product = workspace[: group_kernels * depth].reshape(group_kernels, depth)
    workspace = workspace[group_kernels * depth :]
    grad_weight.fill(0)
    for n in range(batch):
        for g in range(groups):
            image = x[n, g * channels : (g + 1) * channels]
            for row in range(0, height, tile):
                rows = min(tile, height - row)
                columns = workspace[: depth * rows * width].reshape(depth, rows * width)
                _gather_columns(image, columns, taps, row, rows, width, stride, padding, dilation)
                source = lowered[
                    n, g * group_kernels : (g + 1) * group_kernels, row * width : (row + rows) * width
                ]
                np.matmul(source, columns.T, out=product)
                np.add(matrix[g], product, out=matrix[g])
    if grad_bias is not None:
        grad_bias[...] = grad_out.sum(axis=(0, 2, 3), dtype=np.float64)
