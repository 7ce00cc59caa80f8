"""Winograd convolution of 3x3 kernels at stride 1: up to four times fewer multiplications than directly.

Tiles of the source are transformed, so that the convolution becomes one matrix product over the channels for
each of a tile's 16 or 36 transformed elements (Lavin and Gray 2016); the products are transformed back. Tiles
are taken a block of tile rows at a time, small enough for the caches, and neighbouring tiles are the lanes of
vectors throughout.
"""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.copying import copy_floats
from dhhpc_kernels.cpu.geometry import Pair, Planes
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, VECTORS, multiply_tile
from dhhpc_kernels.cpu.winograd_transforms import (
    split_2,
    split_4,
    transform_input_2,
    transform_input_4,
    transform_kernel_2,
    transform_kernel_4,
    transform_output_2,
    transform_output_4,
)

F = np.float32

_LEAST_TILES, _MOST_TILES = 4 * COLUMNS, 384
_LINE = 16  # floats of a cache line


class Plan(NamedTuple):
    """How a Winograd convolution walks over its arrays. Tile rows are numbered over all images of a batch."""

    tile: int  # rows and columns of results, 2 or 4
    elements: int  # (tile + 2)^2 of a transformed tile
    source_channels: int
    target_channels: int
    padding_rows: int
    padding_columns: int
    tile_rows: int  # of an image
    tile_columns: int
    block_rows: int  # tile rows of a block
    pitch: int  # floats from one channel's tiles to the next's
    kernel_pitch: int  # floats from one element's weights to the next element's
    source_pitch: int  # floats from one element's source channels to the next element's
    phase: int  # floats from one phase of a split row to the next
    line: int  # floats of a row of pixels, padding included
    rows: int  # floats of a line and of a block's rows split into phases


def aligned(size: int) -> int:
    """At least size, in whole cache lines: vectors that cross them cost twice."""
    return -(-size // _LINE) * _LINE


def _spread(size: int) -> int:
    """At least size, in an odd number of cache lines: multiples of it then fall into different cache sets."""
    lines = -(-size // _LINE)
    return (lines + 1 - lines % 2) * _LINE


def make_plan(
    tile: int,
    batch: int,
    source_channels: int,
    target_channels: int,
    out_size: Pair,
    padding: Pair,
    block_floats: int,
) -> Plan:
    """The plan of a batch of images.

    block_floats: about as many a block's transformed sources and targets may take.
    """
    tile_rows, tile_columns = (-(-size // tile) for size in out_size)
    elements = (tile + 2) ** 2
    fitting = block_floats // (elements * (source_channels + target_channels))
    wanted = min(max(fitting, _LEAST_TILES), _MOST_TILES, batch * tile_rows * tile_columns)
    # Of about that many tiles, the number of rows that fills its last vectors best.
    block_rows = min(
        range(max(1, wanted // tile_columns // 2), max(1, wanted // tile_columns) + 1),
        key=lambda rows: (-(-rows * tile_columns // COLUMNS) * COLUMNS / (rows * tile_columns), -rows),
    )
    pitch = _spread(-(-block_rows * tile_columns // COLUMNS) * COLUMNS + LANES)
    phase = (-(-(tile_columns + 1) // LANES) + 1) * LANES
    line = aligned(phase * tile + 2 * max(padding))
    return Plan(
        tile,
        elements,
        source_channels,
        target_channels,
        *padding,
        tile_rows,
        tile_columns,
        block_rows,
        pitch,
        _spread(register_blocks(target_channels) * ROWS * source_channels),
        _spread(source_channels * pitch),
        phase,
        line,
        line + aligned((block_rows * tile + 2) * tile * phase),
    )


def register_blocks(channels: int) -> int:
    return -(-channels // ROWS)


def kernels_size(plan: Plan) -> int:
    """Floats of the transformed weights."""
    return plan.elements * plan.kernel_pitch


def sources_size(plan: Plan) -> int:
    """Floats of a block's transformed sources."""
    return plan.elements * plan.source_pitch


def target_pitch(plan: Plan, blocks: int) -> int:
    """Floats from one element's target channels, so many register blocks of them, to the next element's."""
    return _spread(blocks * ROWS * plan.pitch)


def offsets(plan: Plan) -> np.ndarray:
    """Where the channels of a transformed source begin, with some to spare for whole register blocks."""
    places = np.arange(plan.source_channels + VECTORS, dtype=np.int64) * plan.pitch
    places[plan.source_channels :] = 0
    return places


@compile_kernel
def transform_kernels(
    weights: np.ndarray,
    transformed: np.ndarray,
    plan: Plan,
    strides: Pair,
    depth_taps: int,
    turned: bool,
    first: int,
    last: int,
) -> None:
    """Transform flat weights into the order of multiply_tile: element, register block, channel, row.

    For register blocks first to last. strides: floats from one target channel and source channel to the next;
    each pair of those has depth_taps kernels, and the plan's source channels count a channel for each of
    them. turned: by 180 degrees, as the gradient by the data takes them.
    """
    channels = plan.source_channels
    pitch = plan.kernel_pitch
    # A vector holds successive rows of a register block, of as many channels as it takes.
    kernel = np.zeros(9 * LANES, np.float32)
    result = np.empty(plan.elements * LANES, np.float32)
    for block in range(first, last):
        for start in range(0, channels * ROWS, LANES):
            count = min(LANES, channels * ROWS - start)
            for lane in range(count):
                both, row = divmod(start + lane, ROWS)
                channel, depth_tap = divmod(both, depth_taps)
                target = block * ROWS + row
                place = target * strides[0] + channel * strides[1] + depth_tap * 9
                if target >= plan.target_channels:
                    for tap in range(9):
                        kernel[tap * LANES + lane] = F(0)
                elif turned:
                    for tap in range(9):
                        kernel[tap * LANES + lane] = weights[place + 8 - tap]
                else:
                    for tap in range(9):
                        kernel[tap * LANES + lane] = weights[place + tap]
            place = block * channels * ROWS + start
            if count < LANES:  # a whole vector would reach into the next block
                if plan.tile == 4:
                    transform_kernel_4(kernel, 0, result, 0, LANES, LANES, 0)
                else:
                    transform_kernel_2(kernel, 0, result, 0, LANES, LANES, 0)
                for element in range(plan.elements):
                    for lane in range(count):
                        transformed[element * pitch + place + lane] = result[element * LANES + lane]
            elif plan.tile == 4:
                transform_kernel_4(kernel, 0, transformed, place, LANES, pitch, 0)
            else:
                transform_kernel_2(kernel, 0, transformed, place, LANES, pitch, 0)


@compile_kernel
def split_rows(
    source: Planes,
    start: int,
    top: int,
    rows: int,
    left: int,
    workspace: np.ndarray,
    plan: Plan,
) -> None:
    """Split rows of the plane that begins at `start` into phases behind workspace's first line.

    `rows` rows from row `top` on; zeros outside of the plane, `left` of them before each row.
    """
    images, height, width = source.values, source.height, source.width
    tile = plan.tile
    shift = 2 if tile == 4 else 1  # dividing by the tile, a power of two, without a division
    phase = plan.phase
    columns = -(-plan.tile_columns // LANES) * LANES
    end = left + width
    place = plan.line
    for y in range(top, top + rows):
        if 0 <= y < height and start >= 0:
            begin = start + y * width - left
            outside = begin < 0 or begin + columns * tile > images.size
            if outside:  # of the array: by way of the line
                copy_floats(images, begin + left, workspace, left, width)
            for t in range(0, columns, LANES):
                if tile == 4 and outside:
                    split_4(workspace, t * 4, workspace, place + t, phase, 0, 0)
                elif tile == 4:
                    split_4(images, begin + t * 4, workspace, place + t, phase, 0, 0)
                elif outside:
                    split_2(workspace, t * 2, workspace, place + t, phase, 0, 0)
                else:
                    split_2(images, begin + t * 2, workspace, place + t, phase, 0, 0)
            # The last tile's input ends two pixels into the next tile.
            for x in range(columns * tile, min(columns * tile + 2, end)):
                workspace[place + (x & (tile - 1)) * phase + columns] = images[begin + x]
            for x in range(left):
                workspace[place + (x & (tile - 1)) * phase + (x >> shift)] = F(0)
            for x in range(end, columns * tile + 2):
                workspace[place + (x & (tile - 1)) * phase + (x >> shift)] = F(0)
        else:
            for i in range(place, place + tile * phase):
                workspace[i] = F(0)
        place += tile * phase


@compile_kernel
def transform_sources(
    source: Planes,
    transformed: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Transform channels first to last of tile rows first_row to first_row + rows of source."""
    tile = plan.tile
    workspace[: plan.line] = F(0)
    for channel in range(first, last):
        place = channel * plan.pitch
        done = 0
        while done < rows:
            n, tile_row = divmod(first_row + done, plan.tile_rows)
            count = min(rows - done, plan.tile_rows - tile_row)
            split_rows(
                source,
                source.starts[n, channel],
                tile_row * tile - plan.padding_rows,
                count * tile + 2,
                plan.padding_columns,
                workspace,
                plan,
            )
            for row in range(count):
                start = plan.line + row * tile * tile * plan.phase
                for t in range(0, plan.tile_columns, LANES):
                    if tile == 4:
                        transform_input_4(
                            workspace,
                            start + t,
                            transformed,
                            place + t,
                            4 * plan.phase,
                            plan.phase,
                            plan.source_pitch,
                        )
                    else:
                        transform_input_2(
                            workspace,
                            start + t,
                            transformed,
                            place + t,
                            2 * plan.phase,
                            plan.phase,
                            plan.source_pitch,
                        )
                # The lanes past the row's end are overwritten by the next row.
                place += plan.tile_columns
            done += count


@compile_kernel
def _store_targets(
    products: np.ndarray,
    pitch: int,
    out: Planes,
    bias: np.ndarray,
    lines: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Transform the products of target channels first to last back, and add the bias."""
    height, width = out.height, out.width
    tile = plan.tile
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
        if bias.size:
            # The transform adds this element, that of row 1 and column 1, to every pixel of the tile.
            center = (tile + 3) * pitch + place
            for i in range(center, center + rows * plan.tile_columns):
                products[i] += bias[channel]
        for row in range(first_row, first_row + rows):
            n, tile_row = divmod(row, plan.tile_rows)
            for t in range(0, plan.tile_columns, LANES):
                if tile == 4:
                    transform_output_4(products, place + t, lines, t * 4, pitch, plan.line, 0)
                else:
                    transform_output_2(products, place + t, lines, t * 2, pitch, plan.line, 0)
            place += plan.tile_columns
            target = out.starts[n, channel] + tile_row * tile * width
            for i in range(min(tile, height - tile_row * tile)):
                copy_floats(lines, i * plan.line, out.values, target + i * width, width)


@compile_kernel
def convolve(
    source: Planes,
    kernels: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    parts: int,
    first: int,
    last: int,
) -> None:
    """Units first to last of out: blocks of tile rows, each in so many parts of the target channels.

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
    transformed = -1
    for unit in range(first, last):
        block_row, part = divmod(unit, parts)
        first_row = block_row * plan.block_rows
        rows = min(plan.block_rows, len(source.starts) * plan.tile_rows - first_row)
        if transformed != block_row:
            transform_sources(source, sources, rows_space, plan, first_row, rows, 0, channels)
            transformed = block_row
        begin, end = part * part_blocks, min(blocks, (part + 1) * part_blocks)
        for element in range(plan.elements):
            for block in range(begin, end):
                weight = element * plan.kernel_pitch + block * channels * ROWS
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
        _store_targets(
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
