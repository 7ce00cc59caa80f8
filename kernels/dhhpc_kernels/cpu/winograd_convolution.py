"""Convolution by Winograd's algorithm: workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu import winograd, winograd_weights
from dhhpc_kernels.cpu.winograd import Pair, Plan
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads

Shape = tuple[int, ...]

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


def convolve(
    tile: int,
    source: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    padding: Pair,
    source_first: bool,
) -> None:
    """out (N,K,OH,OW) = the 3x3 weight convolved with source (N,C,H,W) at stride 1, plus bias (K,).

    source_first: weight is (C,K,3,3) and turned by 180 degrees, as in the gradient by the data.
    """
    channels = (source.shape[1], out.shape[1])
    plan, offsets = _plan(tile, source.shape[0], channels, out.shape[2:], padding, _BLOCK_FLOATS)
    kernels, workspace = np.split(workspace, [winograd.kernels_size(plan)])
    taps = weight.reshape(*weight.shape[:2], 9, copy=False)
    blocks = winograd.register_blocks(plan.target_channels)
    run_parallel(
        winograd.transform_kernels,
        [(taps, kernels, plan, source_first, first, last) for first, last in shares(blocks, threads())],
    )
    parts = _parts(plan, source.shape[0])
    units = -(-source.shape[0] * plan.tile_rows // plan.block_rows) * parts
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


def convolve_workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    """Number of float32 that `convolve` needs; channels: of the source and of the target."""
    plan, _ = _plan(tile, batch, channels, out_size, padding, _BLOCK_FLOATS)
    return winograd.kernels_size(plan) + threads() * _part_size(plan, _parts(plan, batch))


def weight_gradient(
    tile: int,
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    padding: Pair,
) -> None:
    """grad_weight (K,C,3,3) of a convolution at stride 1, from x (N,C,H,W) and grad_out (N,K,OH,OW)."""
    channels = (x.shape[1], grad_out.shape[1])
    plan, offsets = _plan(tile, x.shape[0], channels, grad_out.shape[2:], padding, _WEIGHTS_BLOCK_FLOATS)
    pitch = winograd.target_pitch(plan, winograd.register_blocks(plan.target_channels))
    sums, sources, gradients, rest = np.split(
        workspace,
        np.cumsum(
            [winograd_weights.sums_size(plan), winograd.sources_size(plan), plan.elements * pitch]
        ).tolist(),
    )
    check_workspace(rest, plan.rows)
    count = min(threads(), rest.size // plan.rows)
    all_rows = x.shape[0] * plan.tile_rows
    for first_row in range(0, all_rows, plan.block_rows):
        rows = min(plan.block_rows, all_rows - first_row)
        run_parallel(
            winograd_weights.transform_both,
            [
                (
                    x,
                    grad_out,
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
    taps = grad_weight.reshape(*grad_weight.shape[:2], 9, copy=False)
    run_parallel(
        winograd_weights.finish_gradient,
        [(sums, taps, plan, first, last) for first, last in shares(plan.target_channels, count)],
    )


def weight_gradient_workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    """Number of float32 that `weight_gradient` needs; channels: of x and of grad_out."""
    plan, _ = _plan(tile, batch, channels, out_size, padding, _WEIGHTS_BLOCK_FLOATS)
    pitch = winograd.target_pitch(plan, winograd.register_blocks(plan.target_channels))
    return (
        winograd_weights.sums_size(plan)
        + winograd.sources_size(plan)
        + plan.elements * pitch
        + threads() * plan.rows
    )
