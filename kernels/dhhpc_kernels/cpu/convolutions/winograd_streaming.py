"""Winograd's products where there are few tiles and many channels: channels are the lanes.

The transformed weights would be many times the tiles, so they are not kept: a thread transforms those of a
few target channels into its second-level cache and multiplies all tiles of a block by them at once. The sums
are the same, bit by bit, as those of `winograd_resident`.
"""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part, compile_phase
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import Plan, counts, lane_share, make_plan
from dhhpc_kernels.cpu.convolutions.winograd_tiles import (
    Kernels,
    store_targets,
    transform_kernels,
    transform_sources,
)
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, multiply_columns
from dhhpc_kernels.cpu.vector_moves import copy_rows, transpose
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.meetings import Arrivals, meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, threads
from dhhpc_kernels.turns import new_turns, take_turn

# Tiles of a block, and source channels of a piece of weights, which then stays in the second-level cache.
_MOST_TILES, _DEPTH = 128, 64


@compile_part
def lanes_of(block: int, channels: int) -> tuple[int, int]:
    """The channels of one of the blocks that divide whole vectors of them evenly."""
    vectors, blocks = -(-channels // LANES), -(-channels // COLUMNS)
    return vectors * block // blocks * LANES, vectors * (block + 1) // blocks * LANES


@compile_phase
def _pack_tiles(
    source: Planes,
    tiles: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Transform source channels first to last, `first` a multiple of LANES, of some tile rows.

    Into the order piece of source channels, element, ROWS tiles, channel, tile.
    workspace: plan.rows, and LANES channels' transformed tiles.
    """
    rows_space, transformed = workspace[: plan.rows], workspace[plan.rows :]
    pitch = plan.source_pitch
    for start in range(first, last, LANES):
        end = min(last, start + LANES)
        transform_sources(source, transformed, rows_space, plan, first_row, rows, start, end)
        piece, channel = divmod(start, plan.depth)
        for element in range(plan.elements):
            place = (piece * plan.elements + element) * plan.tiles * plan.depth + channel * ROWS
            for tile in range(0, plan.tiles, ROWS):
                for i in range(end - start):
                    copy_rows(
                        transformed,
                        element * pitch + i * plan.pitch + tile,
                        tiles,
                        place + tile * plan.depth + i * ROWS,
                    )


@compile_phase
def _convolve_blocks(
    tiles: np.ndarray,
    kernels: Kernels,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    turns: np.ndarray,
) -> None:
    """Blocks of COLUMNS target channels of some tile rows, from what `_pack_tiles` made.

    In turn with other threads.

    workspace: `tile` lines, LANES channels' transformed tiles, plan.elements * plan.kernel_pitch, and the
    products of a block.
    """
    lines, rest = workspace[: plan.tile * plan.line], workspace[plan.tile * plan.line :]
    size = plan.elements * plan.source_pitch
    transformed, rest = rest[:size], rest[size:]
    weights, products = rest[: plan.elements * plan.kernel_pitch], rest[plan.elements * plan.kernel_pitch :]
    depth, blocks = plan.depth, -(-plan.target_channels // COLUMNS)
    block = take_turn(turns)
    while block < blocks:
        first_lane, last_lane = lanes_of(block, plan.target_channels)
        vectors = (last_lane - first_lane) // LANES
        for channel in range(0, plan.source_channels, depth):
            count = min(depth, plan.source_channels - channel)
            transform_kernels(kernels, weights, plan, first_lane, last_lane, channel, channel + count)
            for element in range(plan.elements):
                source = (channel // depth * plan.elements + element) * plan.tiles * depth
                for tile in range(0, rows * plan.tile_columns, ROWS):
                    multiply_columns(
                        tiles,
                        source + tile * depth,
                        1,
                        steps,
                        count,
                        weights,
                        element * plan.kernel_pitch,
                        offsets,
                        0,
                        products,
                        element * plan.product_pitch + tile * COLUMNS,
                        COLUMNS,
                        channel > 0,
                        vectors,
                    )
        for lane in range(first_lane, last_lane, LANES):
            for element in range(plan.elements):
                place = element * plan.product_pitch + lane - first_lane
                for tile in range(0, plan.tiles, LANES):
                    transpose(
                        products,
                        place + tile * COLUMNS,
                        COLUMNS,
                        transformed,
                        element * plan.source_pitch + tile,
                        plan.pitch,
                    )
            store_targets(
                transformed,
                plan.source_pitch,
                out,
                bias,
                lines,
                plan,
                first_row,
                rows,
                lane,
                min(lane + LANES, plan.target_channels),
            )
        block = take_turn(turns)


@compile_kernel
def _convolve(
    source: Planes,
    tiles: np.ndarray,
    kernels: Kernels,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    turns: np.ndarray,
    arrivals: Arrivals,
    part: int,
    parts: int,
) -> None:
    """For each block of tiles pack a part's source channels, then take turns at the target channels."""
    all_rows, meetings = len(source.starts) * plan.tile_rows, 0
    first, last = lane_share(plan.source_channels, part, parts)
    for first_row in range(0, all_rows, plan.block_rows):
        rows = min(plan.block_rows, all_rows - first_row)
        _pack_tiles(source, tiles, workspace, plan, first_row, rows, first, last)
        meetings += 1
        meet(arrivals, parts, meetings)
        _convolve_blocks(
            tiles,
            kernels,
            bias,
            out,
            workspace,
            steps,
            offsets,
            plan,
            first_row,
            rows,
            turns[first_row // plan.block_rows :],
        )
        # The next block is packed over what others still read.
        meetings += 1
        meet(arrivals, parts, meetings)


@functools.lru_cache(maxsize=1024)
def _plan(
    tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair
) -> tuple[Plan, np.ndarray, np.ndarray]:
    plan = make_plan(tile, batch, channels, out_size, padding, _MOST_TILES, _DEPTH)
    return plan, *counts(plan.depth)


def _tiles_size(plan: Plan) -> int:
    """Floats of a block's transformed sources."""
    return plan.elements * plan.tiles * -(-plan.source_channels // plan.depth) * plan.depth


def _thread_size(plan: Plan) -> int:
    """Workspace floats of one thread."""
    pixels = max(plan.rows, plan.tile * plan.line)
    return pixels + plan.elements * (plan.source_pitch + plan.kernel_pitch + plan.product_pitch)


def convolve(
    tile: int,
    source: Planes,
    kernels: Kernels,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    padding: Pair,
) -> None:
    """Share the channels out to the threads: the source's to be packed, the target's to be summed."""
    batch, channels = source.starts.shape
    targets = out.starts.shape[1]
    plan, steps, offsets = _plan(tile, batch, (channels, targets), (out.height, out.width), padding)
    size = _thread_size(plan)
    tiles, workspace = np.split(workspace, [_tiles_size(plan)])
    check_workspace(workspace, size)
    spaces = [workspace[i * size : (i + 1) * size] for i in range(min(threads(), workspace.size // size))]
    turns, arrivals = new_turns(-(-batch * plan.tile_rows // plan.block_rows)), new_arrivals()
    run_parallel(
        _convolve,
        [
            (
                source,
                tiles,
                kernels,
                bias,
                out,
                space,
                steps,
                offsets,
                plan,
                turns,
                arrivals,
                part,
                len(spaces),
            )
            for part, space in enumerate(spaces)
        ],
    )


def convolve_workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    """Number of float32 that `convolve` needs, for the number of threads set now."""
    plan, _, _ = _plan(tile, batch, channels, out_size, padding)
    return _tiles_size(plan) + threads() * _thread_size(plan)
