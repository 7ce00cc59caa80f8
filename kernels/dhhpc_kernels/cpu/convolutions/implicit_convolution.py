"""Convolution of any shape as an implicit matrix product: workspaces, and the threads' shares."""

import functools

import numpy as np

from dhhpc_kernels.cpu.convolutions import implicit_product
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles, windows
from dhhpc_kernels.cpu.convolutions.chunks import even_chunk, row_blocks
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Planes,
    backward_correlation,
    backward_sources,
    forward_correlation,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.convolutions.implicit_product import Plan
from dhhpc_kernels.cpu.convolutions.turned_weights import turn_weights, turned_size
from dhhpc_kernels.cpu.microkernel import COLUMNS, ROWS
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads
from dhhpc_kernels.turns import new_turns

_GATHERED_ROWS = 96  # to gather a panel of columns takes as long as to multiply it by so many rows


@functools.lru_cache(maxsize=1024)
def _plan(shape: Geometry, backward: bool) -> Plan:
    correlation = (backward_correlation if backward else forward_correlation)(_lines(shape))
    return implicit_product.make_plan(correlation, backward)


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
    panels, workers = windows(pixels), threads()
    size = even_chunk(panels, plan.chunk // COLUMNS, workers)
    rows = min(plan.rows, row_blocks(tiles(plan.target_channels), -(-panels // size), workers) * ROWS)
    return plan._replace(chunk=min(size, panels) * COLUMNS, rows=rows)


def _correlate(
    plan: Plan,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
) -> None:
    pixels = len(source.starts) * plan.grid_rows * plan.grid_columns
    plan = _laid_out(plan, pixels)
    size = implicit_product.correlate_workspace(plan)
    check_workspace(workspace, size)
    turns, units = new_turns(), -(-pixels // plan.chunk) * -(-plan.target_channels // plan.rows)
    run_parallel(
        implicit_product.correlate,
        [
            (
                source,
                weight.reshape(-1, copy=False),
                bias,
                out,
                workspace[i * size : (i + 1) * size],
                plan,
                implicit_product.kept_rows(plan),
                turns,
                units,
            )
            for i in range(min(threads(), workspace.size // size, units))
        ],
    )


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
    _correlate(_plan(shape, False), source, weight, bias, target, workspace)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    plan = _plan(shape, True)
    source = _planes(shape, grad_out, backward_sources(shape))
    target = _planes(shape, grad_x, x_planes(shape))
    turned, workspace = np.split(workspace, [turned_size(shape)])
    turn_weights(shape, weight, turned)
    _correlate(plan, source, turned, bias, target, workspace)


def _row_parts(rows: int, panels: int, workers: int) -> int:
    """In how many parts to share out the rows of the gradient by the weights, beside parts of panels."""

    def longest(parts: int) -> int:
        return -(-panels // (workers // parts)) * (-(-rows // parts) + _GATHERED_ROWS)

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
    size = implicit_product.weights_workspace(plan.chunk, plan.target_channels)
    check_workspace(workspace, size)
    count = min(threads(), workspace.size // size)
    panels = windows(columns)
    row_parts = _row_parts(plan.target_channels, panels, count)
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
        for first, last in shares(panels, count // row_parts)
    ]
    run_parallel(
        implicit_product.correlate_weights,
        [
            (source, target, grouped, workspace[i * size : (i + 1) * size], plan, *piece)
            for i, piece in enumerate(pieces)
        ],
    )


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    forward_plan, backward_plan = _plan(shape, False), _plan(shape, True)
    sizes = [
        implicit_product.correlate_workspace(
            _laid_out(plan, len(targets) * plan.grid_rows * plan.grid_columns)
        )
        for plan, targets in ((forward_plan, out_planes(shape)), (backward_plan, x_planes(shape)))
    ]
    sizes.append(implicit_product.weights_workspace(forward_plan.chunk, forward_plan.target_channels))
    return turned_size(shape) + threads() * max(sizes)
