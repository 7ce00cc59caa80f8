"""The gradient of a Winograd convolution by few weights, whose sums over all tiles are kept.

It is the transpose of `winograd_resident`: the tiles are the lanes, a block of tile rows at a time.
"""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_phase
from dhhpc_kernels.cpu.convolutions import winograd_plan
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import Plan, register_blocks, tiles_of_block
from dhhpc_kernels.cpu.convolutions.winograd_tiles import (
    store_gradient,
    transform_gradients,
    transform_sources,
)
from dhhpc_kernels.cpu.line_products import add_products
from dhhpc_kernels.cpu.microkernel import LANES, ROWS, VECTORS
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.meetings import Arrivals, meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, threads

F = np.float32

_BLOCK_FLOATS = 2 * 1024 * 1024  # long sums make it worth more than a block of a convolution
_GROUP = 4  # register blocks whose rows stay in the first-level cache while the sources pass by


@compile_phase
def _clear_tails(transformed: np.ndarray, plan: Plan, pitch: int, tiles: int, first: int, last: int) -> None:
    """Zero the lanes past the last tile, which whole vectors read."""
    end = -(-tiles // LANES) * LANES
    for element in range(plan.elements):
        for channel in range(first, last):
            place = element * pitch + channel * plan.pitch
            for t in range(place + tiles, place + end):
                transformed[t] = F(0)


@compile_phase
def _transform_both(
    source: Planes,
    grad_out: Planes,
    sources: np.ndarray,
    gradients: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    gradient_pitch: int,
    first_row: int,
    rows: int,
    first: int,
    last: int,
    first_target: int,
    last_target: int,
) -> None:
    """A block's source channels first to last, and its gradients' channels first_target to last_target."""
    tiles = rows * plan.tile_columns
    transform_sources(source, sources[first * plan.pitch :], workspace, plan, first_row, rows, first, last)
    _clear_tails(sources, plan, plan.source_pitch, tiles, first, last)
    transform_gradients(
        grad_out,
        gradients[first_target * plan.pitch :],
        workspace,
        plan,
        gradient_pitch,
        first_row,
        rows,
        first_target,
        last_target,
    )
    _clear_tails(gradients, plan, gradient_pitch, tiles, first_target, last_target)


@compile_phase
def _add_block(
    sources: np.ndarray,
    gradients: np.ndarray,
    sums: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    gradient_pitch: int,
    tiles: int,
    clear: bool,
    first: int,
    last: int,
) -> None:
    """Add a block's products to elements first to last of sums (elements, targets, channels + VECTORS)."""
    channels = plan.source_channels
    blocks = -(-plan.target_channels // ROWS)
    depth = channels + VECTORS
    for element in range(first, last):
        here = element * blocks * ROWS * depth
        if clear:
            sums[here : here + blocks * ROWS * depth] = F(0)
        source = sources[element * plan.source_pitch : (element + 1) * plan.source_pitch]
        for group in range(0, blocks, _GROUP):
            for channel in range(0, channels, VECTORS):
                for block in range(group, min(blocks, group + _GROUP)):
                    add_products(
                        gradients,
                        element * gradient_pitch + block * ROWS * plan.pitch,
                        plan.pitch,
                        source,
                        offsets,
                        channel,
                        tiles,
                        sums,
                        here + block * ROWS * depth + channel,
                        depth,
                    )


@compile_kernel
def _add_blocks(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    sources: np.ndarray,
    gradients: np.ndarray,
    sums: np.ndarray,
    workspace: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    gradient_pitch: int,
    arrivals: Arrivals,
    part: int,
    parts: int,
) -> None:
    """For each block of tiles transform a part's channels, then add products to a part of the elements.

    At last transform the sums of a part's target channels back.
    """
    channels, targets = plan.source_channels, plan.target_channels
    all_rows, meetings = len(source.starts) * plan.tile_rows, 0
    first_target, last_target = targets * part // parts, targets * (part + 1) // parts
    for first_row in range(0, all_rows, plan.block_rows):
        rows = min(plan.block_rows, all_rows - first_row)
        _transform_both(
            source,
            grad_out,
            sources,
            gradients,
            workspace,
            plan,
            gradient_pitch,
            first_row,
            rows,
            channels * part // parts,
            channels * (part + 1) // parts,
            first_target,
            last_target,
        )
        meetings += 1
        meet(arrivals, parts, meetings)
        _add_block(
            sources,
            gradients,
            sums,
            offsets,
            plan,
            gradient_pitch,
            rows * plan.tile_columns,
            first_row == 0,
            plan.elements * part // parts,
            plan.elements * (part + 1) // parts,
        )
        # The next block is transformed over what others still read.
        meetings += 1
        meet(arrivals, parts, meetings)
    row_pitch = channels + VECTORS
    pitch = -(-targets // ROWS) * ROWS * row_pitch
    store_gradient(
        sums[first_target * row_pitch :],
        pitch,
        row_pitch,
        grad_weight,
        False,
        plan.tile,
        first_target,
        last_target,
        0,
        channels,
    )


@functools.lru_cache(maxsize=1024)
def _plan(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> tuple[Plan, np.ndarray]:
    most_tiles = tiles_of_block(_BLOCK_FLOATS, (tile + 2) ** 2, channels)
    plan = winograd_plan.make_plan(tile, batch, channels, out_size, padding, most_tiles, taking_turns=False)
    return plan, winograd_plan.offsets(plan)


def _gradient_sizes(plan: Plan) -> list[int]:
    """Floats of the sums, with a vector to spare, and of a block's transformed sources and gradients."""
    blocks = register_blocks(plan.target_channels)
    pitch = winograd_plan.target_pitch(plan, blocks)
    return [
        winograd_plan.aligned(plan.elements * blocks * ROWS * (plan.source_channels + VECTORS) + LANES),
        plan.elements * plan.source_pitch,
        plan.elements * pitch,
    ]


def convolve_gradient(
    tile: int, source: Planes, grad_out: Planes, grad_weight: np.ndarray, workspace: np.ndarray, padding: Pair
) -> None:
    """grad_weight (K,C,9): share the channels, then the elements out to the threads."""
    batch, channels = source.starts.shape
    targets = grad_out.starts.shape[1]
    out_size = (grad_out.height, grad_out.width)
    plan, offsets = _plan(tile, batch, (channels, targets), out_size, padding)
    sizes = _gradient_sizes(plan)
    sums, sources, gradients, rest = np.split(workspace, np.cumsum(sizes).tolist())
    pitch = gradients.size // plan.elements
    check_workspace(rest, plan.rows)
    count = min(threads(), rest.size // plan.rows)
    arrivals = new_arrivals()
    run_parallel(
        _add_blocks,
        [
            (
                source,
                grad_out,
                grad_weight,
                sources,
                gradients,
                sums,
                rest[part * plan.rows : (part + 1) * plan.rows],
                offsets,
                plan,
                pitch,
                arrivals,
                part,
                count,
            )
            for part in range(count)
        ],
    )


def convolve_gradient_workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    """Number of float32 that `convolve_gradient` needs, for the number of threads set now."""
    plan, _ = _plan(tile, batch, channels, out_size, padding)
    return sum(_gradient_sizes(plan)) + threads() * plan.rows
