"""Winograd's products where there are many tiles: they are the lanes, and the weights are transformed once.

Tiles are taken a block of tile rows at a time, small enough for the caches. For the gradient by the weights
the products are summed over all tiles, the transpose of the forward algorithm, in an array of their own.
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
    store_gradient,
    store_targets,
    transform_blocks,
    transform_gradients,
    transform_sources,
)
from dhhpc_kernels.cpu.line_products import add_products
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, VECTORS, multiply_tile
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.meetings import Arrivals, meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, threads
from dhhpc_kernels.turns import new_turns, take_turn

F = np.float32

# Of the one block of a gradient by the weights: its long sums make it worth more than `BLOCK_FLOATS`.
_GRADIENT_BLOCK_FLOATS = 2 * 1024 * 1024

_GROUP = 4  # register blocks whose rows stay in the first-level cache while the sources pass by


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
def _plan(
    tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair, gradient: bool = False
) -> tuple[Plan, np.ndarray]:
    floats = _GRADIENT_BLOCK_FLOATS if gradient else BLOCK_FLOATS
    most_tiles = tiles_of_block(floats, (tile + 2) ** 2, channels)
    plan = winograd_plan.make_plan(
        tile, batch, channels, out_size, padding, most_tiles, taking_turns=not gradient
    )
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
    plan, offsets = _plan(tile, batch, (channels, targets), out_size, padding, gradient=True)
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
    plan, _ = _plan(tile, batch, channels, out_size, padding, gradient=True)
    return sum(_gradient_sizes(plan)) + threads() * plan.rows
