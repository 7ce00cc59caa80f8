"""Tiles of narrow images for Winograd's algorithm: a vector's lanes are tiles of several rows and images.

Along a row there are too few tiles to fill vectors, so each tile's pixels are gathered into a lane by
themselves. The tiles and results are those of `winograd_tiles`.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.convolutions.geometry import Planes
from dhhpc_kernels.cpu.convolutions.winograd_plan import PATCH_FLOATS, PATCH_PITCH, Plan
from dhhpc_kernels.cpu.convolutions.winograd_transforms import (
    transform_gradient_2,
    transform_gradient_4,
    transform_output_2,
    transform_output_4,
    transform_patch_2,
    transform_patch_4,
)
from dhhpc_kernels.cpu.microkernel import LANES
from dhhpc_kernels.cpu.vector_moves import copy_where, transpose

F = np.float32


@compile_part
def is_narrow(plan: Plan) -> bool:
    """Whether a vector holds the tiles of four rows or more, when it pays."""
    return plan.tile_columns * 4 <= LANES


@compile_part
def transform_narrow(
    source: Planes,
    transformed: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    gradients: bool,
    element_pitch: int,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Channels first to last of tile rows: the tiles' inputs, or the gradients of their results.

    Into the beginning of transformed, a channel plan.pitch and an element element_pitch after another.
    workspace: plan.rows.
    """
    values, starts = source.values, source.starts
    half = PATCH_FLOATS
    gathered, patches = workspace[:half], workspace[half : 2 * half]
    height, width = source.height, source.width
    tile = plan.tile
    size = tile if gradients else tile + 2
    up, left = (0, 0) if gradients else (plan.padding_rows, plan.padding_columns)
    tiles = rows * plan.tile_columns
    inside = np.zeros(plan.tile_columns * PATCH_PITCH, np.float32)
    for tile_column in range(plan.tile_columns):
        x = tile_column * tile - left
        for column in range(max(0, -x), min(size, width - x)):
            inside[tile_column * PATCH_PITCH + column] = F(1)
    first_image, first_tile_row = divmod(first_row, plan.tile_rows)
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
        image, tile_row, tile_column = first_image, first_tile_row, 0
        for begin in range(0, tiles, LANES):
            for i in range(size * LANES * PATCH_PITCH):
                gathered[i] = F(0)
            for lane in range(min(LANES, tiles - begin)):
                start = starts[image, channel]
                if start >= 0:
                    y, x = tile_row * tile - up, tile_column * tile - left
                    first_x, last_x = max(0, -x), min(size, width - x)
                    first_y, last_y = max(0, -y), min(size, height - y)
                    here = start + y * width + x
                    whole = here + first_y * width >= 0 and here + last_y * width + PATCH_PITCH <= values.size
                    for row in range(first_y, last_y):
                        there = (row * LANES + lane) * PATCH_PITCH
                        if whole:
                            for column in range(0, PATCH_PITCH, LANES):
                                mask = tile_column * PATCH_PITCH + column
                                pixel = here + row * width + column
                                copy_where(values, pixel, inside, mask, gathered, there + column)
                        else:
                            for column in range(first_x, last_x):
                                gathered[there + column] = values[here + row * width + column]
                tile_column += 1
                if tile_column == plan.tile_columns:
                    tile_column = 0
                    tile_row += 1
                    if tile_row == plan.tile_rows:
                        tile_row = 0
                        image += 1
            for row in range(size):
                for column in range(0, PATCH_PITCH, LANES):
                    transpose(
                        gathered,
                        row * LANES * PATCH_PITCH + column,
                        PATCH_PITCH,
                        patches,
                        (row * PATCH_PITCH + column) * LANES,
                        LANES,
                    )
            target, row_pitch = place + begin, PATCH_PITCH * LANES
            if gradients and tile == 4:
                transform_gradient_4(patches, 0, transformed, target, row_pitch, LANES, element_pitch)
            elif gradients:
                transform_gradient_2(patches, 0, transformed, target, row_pitch, LANES, element_pitch)
            elif tile == 4:
                transform_patch_4(patches, 0, transformed, target, row_pitch, LANES, element_pitch)
            else:
                transform_patch_2(patches, 0, transformed, target, row_pitch, LANES, element_pitch)


@compile_part
def store_narrow(
    products: np.ndarray,
    pitch: int,
    out: Planes,
    lines: np.ndarray,
    plan: Plan,
    first_row: int,
    rows: int,
    first: int,
    last: int,
) -> None:
    """Transform the products of target channels first to last back. lines: tile * plan.line floats."""
    values, starts = out.values, out.starts
    height, width = out.height, out.width
    tile, line = plan.tile, plan.line
    tiles = rows * plan.tile_columns
    first_image, first_tile_row = divmod(first_row, plan.tile_rows)
    for channel in range(first, last):
        place = (channel - first) * plan.pitch
        image, tile_row, tile_column = first_image, first_tile_row, 0
        for begin in range(0, tiles, LANES):
            if tile == 4:
                transform_output_4(products, place + begin, lines, 0, pitch, line, 0)
            else:
                transform_output_2(products, place + begin, lines, 0, pitch, line, 0)
            for lane in range(min(LANES, tiles - begin)):
                y, x = tile_row * tile, tile_column * tile
                target = starts[image, channel] + y * width + x
                for row in range(min(tile, height - y)):
                    for column in range(min(tile, width - x)):
                        values[target + row * width + column] = lines[row * line + lane * tile + column]
                tile_column += 1
                if tile_column == plan.tile_columns:
                    tile_column = 0
                    tile_row += 1
                    if tile_row == plan.tile_rows:
                        tile_row = 0
                        image += 1
