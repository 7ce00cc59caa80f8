"""Between planes of pixels and the transformed tiles of Winograd's algorithm, neighbouring tiles as lanes.

Kernels are transformed too, with successive target channels as lanes.
"""

import functools
from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.convolutions.copying import copy_floats
from dhhpc_kernels.cpu.convolutions.geometry import Planes, Shape
from dhhpc_kernels.cpu.convolutions.winograd_patches import is_narrow, store_narrow, transform_narrow
from dhhpc_kernels.cpu.convolutions.winograd_plan import Plan
from dhhpc_kernels.cpu.convolutions.winograd_transforms import (
    AHEAD,
    split_2,
    split_4,
    split_8,
    transform_gradient_2,
    transform_gradient_4,
    transform_input_2,
    transform_input_4,
    transform_kernel_gradient_2,
    transform_kernel_gradient_4,
    transform_kernels_2,
    transform_kernels_4,
    transform_output_2,
    transform_output_4,
    transform_rows_2,
    transform_rows_4,
)
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS

F = np.float32


class Kernels(NamedTuple):
    """3x3 kernels in a flat array: they begin at the sum of their target and their source channel's place."""

    values: np.ndarray
    rows: np.ndarray  # of the target channels
    channels: np.ndarray  # of the source channels: with depth taps, pairs of a channel and a tap
    turned: bool  # by 180 degrees, as the gradient by the data takes them


def kernels_of(weight: np.ndarray, source_first: bool) -> Kernels:
    """weight (K,C,...,3,3). source_first: K counts the source's channels, and the kernels are turned."""
    return Kernels(weight.reshape(-1, copy=False), *_kernel_places(weight.shape, source_first), source_first)


@functools.lru_cache(maxsize=256)
def _kernel_places(shape: Shape, source_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """The rows and channels of Kernels, the last repeated for whole vectors and for what is fetched ahead."""
    depth_taps = int(np.prod(shape[2:])) // 9
    pitches = shape[1] * depth_taps * 9, depth_taps * 9
    target, source = (1, 0) if source_first else (0, 1)
    rows = np.arange(shape[target]) * pitches[target]
    channels = np.add.outer(np.arange(shape[source]) * pitches[source], np.arange(depth_taps) * 9)
    return np.pad(rows, (0, COLUMNS), "edge"), np.pad(channels.ravel(), (0, LANES + AHEAD), "edge")


@compile_part
def transform_kernels(
    kernels: Kernels,
    transformed: np.ndarray,
    plan: Plan,
    first_target: int,
    last_target: int,
    first_channel: int,
    last_channel: int,
) -> None:
    """Transform kernels of up to COLUMNS target channels, whole vectors, and of some source channels.

    Into the order element, source channel, COLUMNS target channels.
    """
    values, rows, channels, turned = kernels.values, kernels.rows, kernels.channels, kernels.turned
    tile, pitch = plan.tile, plan.kernel_pitch
    for channel in range(first_channel, last_channel):
        place = (channel - first_channel) * COLUMNS
        for row in range(first_target, last_target, LANES):
            if tile == 4:
                transform_kernels_4(
                    values, rows, row, channels, channel, turned, transformed, place, pitch, 0
                )
            else:
                transform_kernels_2(
                    values, rows, row, channels, channel, turned, transformed, place, pitch, 0
                )
            place += LANES


@compile_kernel
def transform_blocks(
    kernels: Kernels, transformed: np.ndarray, plan: Plan, first_target: int, last_target: int
) -> None:
    """Transform kernels of target channels first_target to last_target, multiples of ROWS.

    Into the order element, block of ROWS target channels, source channel, target channel. Whole vectors are
    written, which may hold one source channel too many.
    """
    values, rows, channels, turned = kernels.values, kernels.rows, kernels.channels, kernels.turned
    tile, pitch = plan.tile, plan.kernel_pitch
    place = first_target // ROWS * plan.block_pitch
    for row in range(first_target, last_target, ROWS):
        for channel in range(0, plan.source_channels, LANES // ROWS):
            if tile == 4:
                transform_rows_4(values, rows, row, channels, channel, turned, transformed, place, pitch, 0)
            else:
                transform_rows_2(values, rows, row, channels, channel, turned, transformed, place, pitch, 0)
            place += LANES


@compile_kernel
def _split(tile: int, source: np.ndarray, start: int, target: np.ndarray, place: int, phase: int) -> None:
    """A vector of every tile-th float for each of the tile's phases."""
    if tile == 8:
        split_8(source, start, target, place, phase, 0, 0)
    elif tile == 4:
        split_4(source, start, target, place, phase, 0, 0)
    else:
        split_2(source, start, target, place, phase, 0, 0)


@compile_part
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
    shift = 3 if tile == 8 else tile // 2  # dividing by the tile, a power of two, without a division
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
                if outside:
                    _split(tile, workspace, t * tile, workspace, place + t, phase)
                else:
                    _split(tile, images, begin + t * tile, workspace, place + t, phase)
            # The last tile's input ends two pixels into the next tile.
            for x in range(columns * tile, min(columns * tile + 2, end)):
                workspace[place + (x & (tile - 1)) * phase + columns] = images[begin + x]
            for x in range(left):
                workspace[place + (x & (tile - 1)) * phase + (x >> shift)] = F(0)
            for x in range(end, plan.tile_columns * tile + 2):
                workspace[place + (x & (tile - 1)) * phase + (x >> shift)] = F(0)
        else:
            for i in range(place, place + tile * phase):
                workspace[i] = F(0)
        place += tile * phase


@compile_part
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
    """Transform channels first to last of tile rows first_row to first_row + rows of source.

    Into the beginning of transformed, a channel plan.pitch and an element plan.source_pitch after another.
    """
    tile = plan.tile
    if is_narrow(plan):
        pitch = plan.source_pitch
        transform_narrow(source, transformed, workspace, plan, False, pitch, first_row, rows, first, last)
        return
    workspace[: plan.line] = F(0)
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
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


@compile_part
def transform_gradients(
    grad_out: Planes,
    transformed: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    pitch: int,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """As transform_sources the gradients of target channels, an element `pitch` after another."""
    tile = plan.tile
    if is_narrow(plan):
        transform_narrow(grad_out, transformed, workspace, plan, True, pitch, first_row, rows, first, last)
        return
    workspace[: plan.line] = F(0)
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
        for row in range(first_row, first_row + rows):
            n, tile_row = divmod(row, plan.tile_rows)
            split_rows(grad_out, grad_out.starts[n, channel], tile_row * tile, tile, 0, workspace, plan)
            for t in range(0, plan.tile_columns, LANES):
                start = plan.line + t
                if tile == 4:
                    transform_gradient_4(
                        workspace, start, transformed, place + t, 4 * plan.phase, plan.phase, pitch
                    )
                else:
                    transform_gradient_2(
                        workspace, start, transformed, place + t, 2 * plan.phase, plan.phase, pitch
                    )
            place += plan.tile_columns


@compile_part
def store_targets(
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
    if bias.size:
        for channel in range(first, last):
            # The transform adds this element, that of row 1 and column 1, to every pixel of the tile.
            center = (tile + 3) * pitch + (channel - first) * plan.pitch
            for i in range(center, center + rows * plan.tile_columns):
                products[i] += bias[channel]
    if is_narrow(plan):
        store_narrow(products, pitch, out, lines, plan, first_row, rows, first, last)
        return
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
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


@compile_part
def store_gradient(
    sums: np.ndarray,
    pitch: int,
    row_pitch: int,
    grad_weight: np.ndarray,
    add: bool,
    tile: int,
    first_target: int,
    last_target: int,
    first: int,
    last: int,
) -> None:
    """Transform sums over tiles back to channels first to last of grad_weight (K,C,9).

    sums: begins with the first of the target channels and of the channels, whose last vector must be whole;
    an element's are `pitch` after another's, a target channel's row_pitch. add: to what is in grad_weight.
    """
    result = np.empty(9 * LANES, np.float32)
    for target in range(first_target, last_target):
        place = (target - first_target) * row_pitch
        for channel in range(first, last, LANES):
            start = place + channel - first
            if tile == 4:
                transform_kernel_gradient_4(sums, start, result, 0, pitch, LANES, 0)
            else:
                transform_kernel_gradient_2(sums, start, result, 0, pitch, LANES, 0)
            for lane in range(min(LANES, last - channel)):
                for tap in range(9):
                    before = grad_weight[target, channel + lane, tap] if add else F(0)
                    grad_weight[target, channel + lane, tap] = before + result[tap * LANES + lane]
