"""The gradient of a Winograd convolution by many weights: channels are the lanes, as in `winograd_streaming`.

The sums over all tiles would be many times the weights, so they are not kept: a thread sums a few channels'
products over the tiles of a block in its second-level cache, and transforms them back at once.
"""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_phase
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import (
    Plan,
    aligned,
    counts,
    lane_share,
    make_plan,
    spread,
)
from dhhpc_kernels.cpu.convolutions.winograd_streaming import lanes_of
from dhhpc_kernels.cpu.convolutions.winograd_tiles import (
    store_gradient,
    transform_gradients,
    transform_sources,
)
from dhhpc_kernels.cpu.convolutions.winograd_transforms import interleave
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, multiply_columns
from dhhpc_kernels.cpu.vector_moves import transpose
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.meetings import Arrivals, meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, threads

_MOST_TILES = 256  # of a block
# Register blocks of target channels and blocks of source channels, whose sums stay in the second-level cache.
_GROUP, _PIECE = 8, 2


@compile_phase
def _pack_both(
    source: Planes,
    grad_out: Planes,
    sources: np.ndarray,
    gradients: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    first: int,
    last: int,
    first_target: int,
    last_target: int,
) -> None:
    """Pack source channels first to last, and the gradients' first_target to last_target, of some tile rows.

    Both begin with a multiple of LANES. Into the order element, block of COLUMNS (gradients: ROWS) channels,
    tile, channel. workspace: as in a convolution.
    """
    rows_space, transformed = workspace[: plan.rows], workspace[plan.rows :]
    pitch = plan.source_pitch
    vectors, blocks = -(-plan.source_channels // LANES), -(-plan.source_channels // COLUMNS)
    for start in range(first, last, LANES):
        end = min(last, start + LANES)
        transform_sources(source, transformed, rows_space, plan, first_row, rows, start, end)
        block = ((start // LANES + 1) * blocks - 1) // vectors  # the inverse of lanes_of
        lane = start - vectors * block // blocks * LANES
        for element in range(plan.elements):
            place = (element * blocks + block) * COLUMNS * plan.tiles + lane
            for tile in range(0, plan.tiles, LANES):
                transpose(
                    transformed, element * pitch + tile, plan.pitch, sources, place + tile * COLUMNS, COLUMNS
                )
    size = -(-plan.target_channels // ROWS) * ROWS * plan.tiles
    for start in range(first_target, last_target, ROWS):
        end = min(last_target, start + ROWS)
        transform_gradients(grad_out, transformed, rows_space, plan, pitch, first_row, rows, start, end)
        for element in range(plan.elements):
            place = element * size + start * plan.tiles
            for tile in range(0, plan.tiles, LANES):
                interleave(
                    transformed, element * pitch + tile, gradients, place + tile * ROWS, plan.pitch, 0, 0
                )


@compile_phase
def _sum_products(
    sources: np.ndarray,
    gradients: np.ndarray,
    grad_weight: np.ndarray,
    sums: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    rows: int,
    add: bool,
    first: int,
    last: int,
) -> None:
    """grad_weight (K,C,9) for blocks of ROWS target channels first to last, from what `_pack_both` made.

    add: to what is there.
    """
    blocks, channel_blocks = -(-plan.target_channels // ROWS), -(-plan.source_channels // COLUMNS)
    row_pitch = _PIECE * COLUMNS
    pitch = sums.size // plan.elements
    for begin in range(first, last, _GROUP):
        end = min(last, begin + _GROUP)
        for left in range(0, channel_blocks, _PIECE):
            right = min(channel_blocks, left + _PIECE)
            for element in range(plan.elements):
                for channel_block in range(left, right):
                    first_lane, last_lane = lanes_of(channel_block, plan.source_channels)
                    for block in range(begin, end):
                        multiply_columns(
                            gradients,
                            (element * blocks + block) * ROWS * plan.tiles,
                            1,
                            steps,
                            rows * plan.tile_columns,
                            sources,
                            (element * channel_blocks + channel_block) * COLUMNS * plan.tiles,
                            offsets,
                            0,
                            sums,
                            element * pitch
                            + (block - begin) * ROWS * row_pitch
                            + (channel_block - left) * COLUMNS,
                            row_pitch,
                            False,
                            (last_lane - first_lane) // LANES,
                        )
            for channel_block in range(left, right):
                first_lane, last_lane = lanes_of(channel_block, plan.source_channels)
                store_gradient(
                    sums[(channel_block - left) * COLUMNS :],
                    pitch,
                    row_pitch,
                    grad_weight,
                    add,
                    plan.tile,
                    begin * ROWS,
                    min(end * ROWS, plan.target_channels),
                    first_lane,
                    min(last_lane, plan.source_channels),
                )


@compile_kernel
def _add_blocks(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    sources: np.ndarray,
    gradients: np.ndarray,
    workspace: np.ndarray,
    sums: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    arrivals: Arrivals,
    part: int,
    parts: int,
) -> None:
    """For each block of tiles pack a part's channels, then sum up the products of its target channels."""
    all_rows, meetings = len(source.starts) * plan.tile_rows, 0
    first, last = lane_share(plan.source_channels, part, parts)
    first_target, last_target = lane_share(plan.target_channels, part, parts)
    blocks = -(-plan.target_channels // ROWS)
    for first_row in range(0, all_rows, plan.block_rows):
        rows = min(plan.block_rows, all_rows - first_row)
        _pack_both(
            source,
            grad_out,
            sources,
            gradients,
            workspace,
            plan,
            first_row,
            rows,
            first,
            last,
            first_target,
            last_target,
        )
        meetings += 1
        meet(arrivals, parts, meetings)
        _sum_products(
            sources,
            gradients,
            grad_weight,
            sums,
            steps,
            offsets,
            plan,
            rows,
            first_row > 0,
            blocks * part // parts,
            blocks * (part + 1) // parts,
        )
        # The next block is packed over what others still read.
        meetings += 1
        meet(arrivals, parts, meetings)


@functools.lru_cache(maxsize=1024)
def _plan(
    tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair
) -> tuple[Plan, np.ndarray, np.ndarray]:
    plan = make_plan(tile, batch, channels, out_size, padding, _MOST_TILES, LANES)
    return plan, *counts(plan.tiles)


def _packed_sizes(plan: Plan) -> list[int]:
    """Floats of a block's transformed sources and gradients."""
    return [
        aligned(-(-channels // width) * width * plan.elements * plan.tiles)
        for channels, width in ((plan.source_channels, COLUMNS), (plan.target_channels, ROWS))
    ]


def _sums_size(plan: Plan) -> int:
    return plan.elements * spread(_GROUP * ROWS * _PIECE * COLUMNS)


def _thread_size(plan: Plan) -> int:
    """Workspace floats of one thread: first for pixels and their tiles, then for sums."""
    return max(plan.rows + plan.elements * plan.source_pitch, _sums_size(plan))


def convolve_gradient(
    tile: int, source: Planes, grad_out: Planes, grad_weight: np.ndarray, workspace: np.ndarray, padding: Pair
) -> None:
    """grad_weight (K,C,9), the channels shared out to the threads."""
    batch, channels = source.starts.shape
    targets = grad_out.starts.shape[1]
    plan, steps, offsets = _plan(tile, batch, (channels, targets), (grad_out.height, grad_out.width), padding)
    sources, gradients, rest = np.split(workspace, np.cumsum(_packed_sizes(plan)).tolist())
    size = _thread_size(plan)
    check_workspace(rest, size)
    spaces = [rest[i * size : (i + 1) * size] for i in range(min(threads(), rest.size // size))]
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
                space,
                space[: _sums_size(plan)],
                steps,
                offsets,
                plan,
                arrivals,
                part,
                len(spaces),
            )
            for part, space in enumerate(spaces)
        ],
    )


def convolve_gradient_workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    """Number of float32 that `convolve_gradient` needs, for the number of threads set now."""
    plan, _, _ = _plan(tile, batch, channels, out_size, padding)
    return sum(_packed_sizes(plan)) + threads() * _thread_size(plan)
