"""Convolution of any shape as an implicit matrix product: workspaces, and the threads' shares."""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions import implicit_gradient, implicit_product
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles, windows
from dhhpc_kernels.cpu.convolutions.chunks import even_chunk, row_blocks
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Planes,
    Triple,
    backward_correlation,
    backward_sources,
    forward_correlation,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.convolutions.implicit_product import Plan
from dhhpc_kernels.cpu.convolutions.turned_weights import turn_weights, turned_kernels, turned_size
from dhhpc_kernels.cpu.microkernel import COLUMNS, HEIGHT, ROWS, STEPS, WIDTH
from dhhpc_kernels.cpu.panels import pack_panels, padded_depth, panels
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, run_shares, shares, threads
from dhhpc_kernels.turns import new_turns

_GATHERED_ROWS = 96  # to gather a panel of columns takes as long as to multiply it by so many rows


@functools.lru_cache(maxsize=1024)
def _plan(shape: Geometry, backward: bool) -> Plan:
    shape = _lines(shape)
    if not backward:
        correlation = forward_correlation(shape)
        depth = padded_depth(correlation.source_channels * len(correlation.taps[0]))
        return implicit_product.make_plan(correlation, [depth])
    correlation = backward_correlation(shape)
    sources = turned_kernels(shape, HEIGHT) * shape.kernel[0]
    depths = [sources * len(phase) for phase in correlation.taps if phase]
    return implicit_product.make_plan(correlation, depths)


def _is_pointwise(shape: Geometry) -> bool:
    """Whether each pixel of out is made from the same one of x alone, so that planes are as good as lines."""
    alone = shape.kernel[1:] == (1, 1) and shape.stride[1:] == (1, 1) and shape.padding[1:] == (0, 0)
    return alone and shape.size[1:] == shape.out_size[1:]


def _lines(shape: Geometry) -> Geometry:
    if not _is_pointwise(shape):
        return shape
    depth, height, width = shape.size
    out_depth, _, _ = shape.out_size
    return shape._replace(size=(depth, 1, height * width), out_size=(out_depth, 1, height * width))


def _planes(shape: Geometry, array: np.ndarray, starts: np.ndarray) -> Planes:
    seen = planes(array, starts)
    return seen._replace(height=1, width=seen.height * seen.width) if _is_pointwise(shape) else seen


def _laid_out(plan: Plan, pixels: int) -> Plan:
    """The plan with chunks for the number of threads set now, and where those are fewer than threads with
    fewer rows at once."""
    pixel_panels, workers = panels(pixels, WIDTH), threads()
    size = even_chunk(pixel_panels, plan.chunk // WIDTH, workers)
    rows = row_blocks(plan.rows // HEIGHT, -(-pixel_panels // size), workers) * HEIGHT
    return plan._replace(chunk=min(size, pixel_panels) * WIDTH, rows=rows)


def _correlate(
    plan: Plan,
    source: Planes,
    packed: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
) -> None:
    pixels = len(source.starts) * plan.grid_rows * plan.grid_columns
    plan = _laid_out(plan, pixels)
    size = implicit_product.correlate_workspace(plan)
    check_workspace(workspace, size)
    turns, units = new_turns(), -(-pixels // plan.chunk) * -(-plan.target_channels // plan.rows)
    kept = implicit_product.kept_rows(plan)
    run_parallel(
        implicit_product.correlate,
        [
            (source, packed, bias, out, workspace[i * size : (i + 1) * size], plan, kept, turns, units)
            for i in range(min(threads(), workspace.size // size, units))
        ],
    )


@compile_kernel
def _pack_groups(weights: np.ndarray, packed: np.ndarray, sizes: Triple, first: int, last: int) -> None:
    """Tiles first to last of each group. sizes: groups, kernels of a group, weights of a kernel."""
    groups, kernels, depth = sizes
    pitch = -(-depth // STEPS) * STEPS * HEIGHT
    for g in range(groups):
        start, place = g * kernels * depth, g * -(-kernels // HEIGHT) * pitch
        pack_panels(weights, start, depth, 1, kernels, depth, HEIGHT, packed, place, pitch, first, last)


def _packed_size(shape: Geometry) -> int:
    """Floats of the packed weights of all groups."""
    tiles_of_group = panels(shape.kernels // shape.groups, HEIGHT)
    return shape.groups * tiles_of_group * padded_depth(_weights_columns(shape)) * HEIGHT


def forward(
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out = weight correlated with x, plus bias (K,)."""
    source, target = _planes(shape, x, forward_sources(shape)), _planes(shape, out, out_planes(shape))
    packed, workspace = np.split(workspace, [_packed_size(shape)])
    sizes = shape.groups, shape.kernels // shape.groups, _weights_columns(shape)
    weights = weight.reshape(-1, copy=False)
    run_shares(_pack_groups, panels(sizes[1], HEIGHT), 2 * weight.size, weights, packed, sizes)
    _correlate(_plan(shape, False), source, packed, bias, target, workspace)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    source = _planes(shape, grad_out, backward_sources(shape))
    target = _planes(shape, grad_x, x_planes(shape))
    turned, workspace = np.split(workspace, [turned_size(shape, HEIGHT)])
    turn_weights(shape, weight, turned, HEIGHT)
    _correlate(_plan(shape, True), source, turned, bias, target, workspace)


def _row_parts(rows: int, column_windows: int, workers: int) -> int:
    """In how many parts to share out the rows of the gradient by the weights, beside parts of its columns."""

    def longest(parts: int) -> int:
        return -(-column_windows // (workers // parts)) * (-(-rows // parts) + _GATHERED_ROWS)

    return min((parts for parts in range(1, workers + 1) if workers % parts == 0), key=longest)


def _weights_columns(shape: Geometry) -> int:
    """Pairs of a source channel and a tap of one kernel."""
    return shape.channels // shape.groups * int(np.prod(shape.kernel))


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight.

    The threads share out its elements, not the samples, so the sums are the same for any number of threads.
    """
    plan = _plan(shape, False)
    source, target = _planes(shape, x, forward_sources(shape)), _planes(shape, grad_out, out_planes(shape))
    columns = _weights_columns(shape)
    grouped = grad_weight.reshape(shape.groups, plan.target_channels, columns, copy=False)
    size = implicit_gradient.weights_workspace(plan.target_channels)
    check_workspace(workspace, size)
    count = min(threads(), workspace.size // size)
    column_windows = windows(columns)
    row_parts = _row_parts(plan.target_channels, column_windows, count)
    rows = -(-tiles(plan.target_channels) // row_parts) * ROWS
    first_rows = range(0, plan.target_channels, rows)
    pieces = [
        (
            first_row,
            min(first_row + rows, plan.target_channels),
            first * COLUMNS,
            min(last * COLUMNS, columns),
        )
        for first_row in first_rows
        for first, last in shares(column_windows, count // row_parts)
    ]
    chunk = implicit_gradient.weights_chunk(plan.target_channels)
    run_parallel(
        implicit_gradient.correlate_weights,
        [
            (source, target, grouped, workspace[i * size : (i + 1) * size], plan, chunk, *piece)
            for i, piece in enumerate(pieces)
        ],
    )


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    sizes = [threads() * implicit_gradient.weights_workspace(shape.kernels // shape.groups)]
    for backward, targets, weights in (
        (False, out_planes(shape), _packed_size(shape)),
        (True, x_planes(shape), turned_size(shape, HEIGHT)),
    ):
        plan = _plan(shape, backward)
        laid_out = _laid_out(plan, len(targets) * plan.grid_rows * plan.grid_columns)
        sizes.append(weights + threads() * implicit_product.correlate_workspace(laid_out))
    return max(sizes)
