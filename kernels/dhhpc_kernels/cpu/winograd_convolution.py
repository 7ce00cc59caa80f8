"""Convolution by Winograd's algorithm: workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu import winograd, winograd_weights
from dhhpc_kernels.cpu.geometry import (
    Geometry,
    Pair,
    Planes,
    backward_sources,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.winograd import Plan
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads

# Of a block's transformed arrays. All threads' blocks of a convolution, or the one block of a gradient by the
# weights, which its long sums make worth more, ought to stay in the last-level cache.
_BLOCK_FLOATS, _WEIGHTS_BLOCK_FLOATS = 1024 * 1024, 2 * 1024 * 1024

_NO_BIAS = np.empty(0, np.float32)


@functools.lru_cache(maxsize=1024)
def _plan(
    tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair, block_floats: int
) -> tuple[Plan, np.ndarray]:
    plan = winograd.make_plan(tile, batch, *channels, out_size, padding, block_floats)
    return plan, winograd.offsets(plan)


def _parts(plan: Plan, batch: int) -> int:
    """Into how many parts the target channels are divided, to give every thread work."""
    blocks = -(-batch * plan.tile_rows // plan.block_rows)
    register_blocks = winograd.register_blocks(plan.target_channels)
    wanted = min(register_blocks, -(-threads() // blocks))
    return -(-register_blocks // -(-register_blocks // wanted))


def _part_size(plan: Plan, parts: int) -> int:
    """Workspace floats of one thread."""
    blocks = -(-winograd.register_blocks(plan.target_channels) // parts)
    return (
        plan.tile * plan.line
        + plan.rows
        + winograd.sources_size(plan)
        + plan.elements * winograd.target_pitch(plan, blocks)
    )


def _convolve(
    tile: int,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: Planes,
    workspace: np.ndarray,
    padding: Pair,
    source_first: bool,
) -> None:
    """Transform the weights, then share the blocks of all images out to the threads.

    source_first: the weights' first axis counts the source's channels, and they are turned by 180 degrees.
    """
    batch = len(source.starts)
    channels = (source.starts.shape[1], out.starts.shape[1])
    plan, offsets = _plan(tile, batch, channels, (out.height, out.width), padding, _BLOCK_FLOATS)
    kernels, workspace = np.split(workspace, [winograd.kernels_size(plan)])
    whole, part_of_it = weight[0].size, weight[0, 0].size
    strides = (part_of_it, whole) if source_first else (whole, part_of_it)
    depth_taps = part_of_it // 9
    flat = weight.reshape(-1, copy=False)
    blocks = winograd.register_blocks(plan.target_channels)
    run_parallel(
        winograd.transform_kernels,
        [
            (flat, kernels, plan, strides, depth_taps, source_first, first, last)
            for first, last in shares(blocks, threads())
        ],
    )
    parts = _parts(plan, batch)
    units = -(-batch * plan.tile_rows // plan.block_rows) * parts
    size = _part_size(plan, parts)
    check_workspace(workspace, size)
    run_parallel(
        winograd.convolve,
        [
            (
                source,
                kernels,
                _NO_BIAS if bias is None else bias,
                out,
                workspace[i * size : (i + 1) * size],
                offsets,
                plan,
                parts,
                first,
                last,
            )
            for i, (first, last) in enumerate(shares(units, min(threads(), workspace.size // size)))
        ],
    )


def _workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    plan, _ = _plan(tile, batch, channels, out_size, padding, _BLOCK_FLOATS)
    return winograd.kernels_size(plan) + threads() * _part_size(plan, _parts(plan, batch))


def forward(
    tile: int,
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out = weight correlated with x, plus bias (K,)."""
    source, target = planes(x, forward_sources(shape)), planes(out, out_planes(shape))
    _convolve(tile, source, weight, bias, target, workspace, shape.padding[1:], source_first=False)


def forward_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `forward` needs, for the number of threads set now."""
    channels = (shape.channels * shape.kernel[0], shape.kernels)
    return _workspace(tile, shape.batch * shape.out_size[0], channels, shape.out_size[1:], shape.padding[1:])


def _turned_padding(shape: Geometry) -> Pair:
    return 2 - shape.padding[1], 2 - shape.padding[2]


def backward_data(
    tile: int,
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    source, target = planes(grad_out, backward_sources(shape)), planes(grad_x, x_planes(shape))
    _convolve(tile, source, weight, bias, target, workspace, _turned_padding(shape), source_first=True)


def backward_data_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `backward_data` needs, for the number of threads set now."""
    channels = (shape.kernels * shape.kernel[0], shape.channels)
    return _workspace(tile, shape.batch * shape.size[0], channels, shape.size[1:], _turned_padding(shape))


def _weights_plan(tile: int, shape: Geometry) -> tuple[Plan, np.ndarray]:
    return _plan(
        tile,
        shape.batch * shape.out_size[0],
        (shape.channels * shape.kernel[0], shape.kernels),
        shape.out_size[1:],
        shape.padding[1:],
        _WEIGHTS_BLOCK_FLOATS,
    )


def backward_weights(
    tile: int,
    shape: Geometry,
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """grad_weight = gradient of the loss by weight."""
    plan, offsets = _weights_plan(tile, shape)
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    pitch = winograd.target_pitch(plan, winograd.register_blocks(plan.target_channels))
    sums, sources, gradients, rest = np.split(
        workspace,
        np.cumsum(
            [winograd_weights.sums_size(plan), winograd.sources_size(plan), plan.elements * pitch]
        ).tolist(),
    )
    check_workspace(rest, plan.rows)
    count = min(threads(), rest.size // plan.rows)
    all_rows = len(source.starts) * plan.tile_rows
    for first_row in range(0, all_rows, plan.block_rows):
        rows = min(plan.block_rows, all_rows - first_row)
        run_parallel(
            winograd_weights.transform_both,
            [
                (
                    source,
                    target,
                    sources,
                    gradients,
                    rest[i * plan.rows : (i + 1) * plan.rows],
                    plan,
                    pitch,
                    first_row,
                    rows,
                    plan.source_channels * i // count,
                    plan.source_channels * (i + 1) // count,
                    plan.target_channels * i // count,
                    plan.target_channels * (i + 1) // count,
                )
                for i in range(count)
            ],
        )
        run_parallel(
            winograd_weights.add_block,
            [
                (
                    sources,
                    gradients,
                    sums,
                    offsets,
                    plan,
                    pitch,
                    rows * plan.tile_columns,
                    first_row == 0,
                    first,
                    last,
                )
                for first, last in shares(plan.elements, count)
            ],
        )
    taps = grad_weight.reshape(plan.target_channels, plan.source_channels, 9, copy=False)
    run_parallel(
        winograd_weights.finish_gradient,
        [(sums, taps, plan, first, last) for first, last in shares(plan.target_channels, count)],
    )


def backward_weights_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `backward_weights` needs, for the number of threads set now."""
    plan, _ = _weights_plan(tile, shape)
    pitch = winograd.target_pitch(plan, winograd.register_blocks(plan.target_channels))
    return (
        winograd_weights.sums_size(plan)
        + winograd.sources_size(plan)
        + plan.elements * pitch
        + threads() * plan.rows
    )
