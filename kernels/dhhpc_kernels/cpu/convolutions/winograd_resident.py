"""Winograd's products where there are many tiles: they are the lanes, and the weights are transformed once.

Tiles are taken a block of tile rows at a time, small enough for the caches.
"""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_phase
from dhhpc_kernels.cpu.convolutions import winograd_plan
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import (
    BLOCK_FLOATS,
    Plan,
    register_blocks,
    tiles_of_block,
)
from dhhpc_kernels.cpu.convolutions.winograd_tiles import (
    Kernels,
    store_targets,
    transform_blocks,
    transform_sources,
)
from dhhpc_kernels.cpu.microkernel import COLUMNS, ROWS, multiply_tile
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.meetings import Arrivals, meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, threads
from dhhpc_kernels.turns import new_turns, take_turn


@compile_phase
def _convolve_units(
    source: Planes,
    kernels: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    parts: int,
    turns: np.ndarray,
) -> None:
    """Units of out, in turn with other threads: blocks of tile rows, in so many parts of target channels.

    workspace: `tile` lines, plan.rows, sources_size, and a part's products.
    """
    channels = plan.source_channels
    blocks = -(-plan.target_channels // ROWS)
    part_blocks = -(-blocks // parts)
    lines = workspace[: plan.tile * plan.line]
    rest = workspace[lines.size :]
    rows_space, rest = rest[: plan.rows], rest[plan.rows :]
    sources, products = rest[: plan.elements * plan.source_pitch], rest[plan.elements * plan.source_pitch :]
    pitch = products.size // plan.elements
    units = -(-len(source.starts) * plan.tile_rows // plan.block_rows) * parts
    transformed = -1
    unit = take_turn(turns)
    while unit < units:
        block_row, part = divmod(unit, parts)
        first_row = block_row * plan.block_rows
        rows = min(plan.block_rows, len(source.starts) * plan.tile_rows - first_row)
        if transformed != block_row:
            # Of a mere 0 Numba would make a constant, and compile a version of its own for it.
            zero: int = np.int64(0)  # type: ignore[assignment]
            transform_sources(source, sources, rows_space, plan, first_row, rows, zero, channels)
            transformed = block_row
        begin, end = part * part_blocks, min(blocks, (part + 1) * part_blocks)
        for element in range(plan.elements):
            for block in range(begin, end):
                weight = element * plan.kernel_pitch + block * plan.block_pitch
                target = element * pitch + (block - begin) * ROWS * plan.pitch
                for p in range(0, rows * plan.tile_columns, COLUMNS):
                    multiply_tile(
                        kernels,
                        weight,
                        offsets,
                        0,
                        channels,
                        sources,
                        element * plan.source_pitch + p,
                        products,
                        target + p,
                        plan.pitch,
                    )
        store_targets(
            products,
            pitch,
            out,
            bias,
            lines,
            plan,
            first_row,
            rows,
            begin * ROWS,
            min(end * ROWS, plan.target_channels),
        )
        unit = take_turn(turns)


@compile_kernel
def _convolve(
    source: Planes,
    kernels: Kernels,
    weights: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    target_parts: int,
    turns: np.ndarray,
    arrivals: Arrivals,
    part: int,
    parts: int,
) -> None:
    """Transform a part of the weights, then take turns at the units of out."""
    blocks = -(-plan.target_channels // ROWS)
    transform_blocks(
        kernels, weights, plan, blocks * part // parts * ROWS, blocks * (part + 1) // parts * ROWS
    )
    meet(arrivals, parts, 1)
    _convolve_units(source, weights, bias, out, workspace, offsets, plan, target_parts, turns)


@functools.lru_cache(maxsize=1024)
def _plan(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> tuple[Plan, np.ndarray]:
    most_tiles = tiles_of_block(BLOCK_FLOATS, (tile + 2) ** 2, channels)
    plan = winograd_plan.make_plan(tile, batch, channels, out_size, padding, most_tiles)
    return plan, winograd_plan.offsets(plan)


def _part_size(plan: Plan, parts: int) -> int:
    """Workspace floats of one thread."""
    blocks = -(-register_blocks(plan.target_channels) // parts)
    return (
        plan.tile * plan.line
        + plan.rows
        + plan.elements * (plan.source_pitch + winograd_plan.target_pitch(plan, blocks))
    )


def convolve(
    tile: int,
    source: Planes,
    kernels: Kernels,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    padding: Pair,
) -> None:
    """Share the weights, then the blocks of all images out to the threads."""
    batch, channels = source.starts.shape
    out_size = (out.height, out.width)
    plan, offsets = _plan(tile, batch, (channels, out.starts.shape[1]), out_size, padding)
    weights, workspace = np.split(workspace, [plan.elements * plan.kernel_pitch])
    parts = winograd_plan.target_parts(plan, batch, plan.target_channels)
    size = _part_size(plan, parts)
    check_workspace(workspace, size)
    spaces = [workspace[i * size : (i + 1) * size] for i in range(min(threads(), workspace.size // size))]
    turns, arrivals = new_turns(), new_arrivals()
    run_parallel(
        _convolve,
        [
            (
                source,
                kernels,
                weights,
                bias,
                out,
                space,
                offsets,
                plan,
                parts,
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
    plan, _ = _plan(tile, batch, channels, out_size, padding)
    return plan.elements * plan.kernel_pitch + threads() * _part_size(
        plan, winograd_plan.target_parts(plan, batch, plan.target_channels)
    )
