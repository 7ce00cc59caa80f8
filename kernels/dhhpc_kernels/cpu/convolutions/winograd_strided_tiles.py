"""Between planes of pixels and the transformed tiles of Winograd's algorithm at stride 2."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.copying import copy_floats
from dhhpc_kernels.cpu.convolutions.geometry import Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import Plan
from dhhpc_kernels.cpu.convolutions.winograd_strided_transforms import (
    PHASES,
    SIDE,
    TILE,
    transform_even_rows,
    transform_kernels,
    transform_odd_rows,
    transform_output,
    transform_phase_0,
    transform_phase_1,
    transform_phase_2,
    transform_phase_3,
    transform_results,
)
from dhhpc_kernels.cpu.convolutions.winograd_tiles import Kernels, split_rows
from dhhpc_kernels.cpu.microkernel import LANES, LINE, ROWS
from dhhpc_kernels.cpu.vector_moves import prefetch

F = np.float32


@compile_kernel
def transform_weights(
    kernels: Kernels,
    transformed: np.ndarray,
    plan: Plan,
    channels: int,
    phase_pitch: int,
    first: int,
    last: int,
) -> None:
    """Kernels of register blocks first to last of target channels, and of so many source channels.

    Into the order element, block, source channel, target channel, with a pitch for the phases.
    """
    values, rows, places, turned = kernels.values, kernels.rows, kernels.channels, kernels.turned
    for block in range(first, last):
        place = block * plan.block_pitch
        for channel in range(0, channels, LANES // ROWS):
            transform_kernels(
                values,
                rows,
                block * ROWS,
                places,
                channel,
                turned,
                transformed,
                place,
                plan.kernel_pitch,
                phase_pitch,
            )
            place += LANES


@compile_kernel
def transform_sources(
    source: Planes,
    transformed: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    by_x: bool,
    first_row: int,
    rows: int,
) -> None:
    """Transform tile rows first_row to first_row + rows: of the gradient of out by_x, or phases of x."""
    channels = source.starts.shape[1]
    pitch, phase = plan.source_pitch, plan.phase
    step = plan.tile  # pixels from one tile to the next
    next_phase, line = channels * plan.pitch, step * phase
    workspace[: plan.line] = F(0)
    for channel in range(channels):
        place = channel * plan.pitch
        done = 0
        while done < rows:
            n, tile_row = divmod(first_row + done, plan.tile_rows)
            count = min(rows - done, plan.tile_rows - tile_row)
            top = tile_row * step - plan.padding_rows
            start = source.starts[n, channel]
            split_rows(source, start, top, count * step + 1, plan.padding_columns, workspace, plan)
            # The next channel's pixels are on their way meanwhile.
            ahead = source.starts[n, min(channel + 1, channels - 1)] + max(top, 0) * source.width
            for row in range(count):
                for i in range(0, step * source.width, LINE):
                    prefetch(source.values, ahead + row * step * source.width + i)
                begin = plan.line + row * step * line
                for t in range(0, plan.tile_columns, LANES):
                    pixels, there = begin + t, place + t
                    if by_x:
                        transform_results(workspace, pixels, transformed, there, line, phase, pitch)
                    else:
                        transform_phase_0(workspace, pixels, transformed, there, line, phase, pitch)
                        there += next_phase
                        transform_phase_1(workspace, pixels, transformed, there, line, phase, pitch)
                        there += next_phase
                        transform_phase_2(workspace, pixels, transformed, there, line, phase, pitch)
                        there += next_phase
                        transform_phase_3(workspace, pixels, transformed, there, line, phase, pitch)
                # The lanes past the row's end are overwritten by the next row.
                place += plan.tile_columns
            done += count


@compile_kernel
def _store_rows(
    products: np.ndarray,
    first: int,
    pitch: int,
    phase_pitch: int,
    lines: np.ndarray,
    plan: Plan,
    by_x: bool,
) -> None:
    """Transform the products of a row of tiles back to lines of pixels."""
    line = plan.line
    for t in range(0, plan.tile_columns, LANES):
        if by_x:
            place = t * 2 * TILE
            odd, even = first + t + 3 * phase_pitch, first + t
            transform_odd_rows(products, odd, lines, place, pitch, 2 * line, -phase_pitch)
            transform_even_rows(products, even, lines, line + place, pitch, 2 * line, phase_pitch)
        else:
            transform_output(products, first + t, lines, t * TILE, pitch, line, 0)


@compile_kernel
def store_targets(
    products: np.ndarray,
    pitch: int,
    phase_pitch: int,
    out: Planes,
    bias: np.ndarray,
    lines: np.ndarray,
    plan: Plan,
    by_x: bool,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Transform the products of target channels first to last back, and add the bias."""
    height, width = out.height, out.width
    step = 2 * TILE if by_x else TILE
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
        if bias.size:
            for phase in range(PHASES if by_x else 1):
                # The transform adds this element, that of row 1 and column 1, to every pixel of the tile.
                center = (SIDE + 1) * pitch + phase * phase_pitch + place
                for i in range(center, center + rows * plan.tile_columns):
                    products[i] += bias[channel]
        for row in range(first_row, first_row + rows):
            n, tile_row = divmod(row, plan.tile_rows)
            _store_rows(products, place, pitch, phase_pitch, lines, plan, by_x)
            place += plan.tile_columns
            target = out.starts[n, channel] + tile_row * step * width
            for i in range(min(step, height - tile_row * step)):
                copy_floats(lines, i * plan.line, out.values, target + i * width, width)
