"""Gathering the columns of a matrix product at a stride, by a table of where each pixel lies.

A row of few pixels, some apart, takes no whole vectors; but what grid points meet under a tap lies alike in
each channel. So its places are found once for a chunk of grid points, and serve all channels.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import Planes
from dhhpc_kernels.cpu.convolutions.pixels import AHEAD, Plan
from dhhpc_kernels.cpu.microkernel import COLUMNS, FLOATS, LANES, index, pointer_at
from dhhpc_kernels.cpu.vectors import Vectors

_LANE, _INDEX = ir.IntType(32), ir.IntType(64)
_VECTOR, _MASK = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_LANE, LANES)
_NUMBERS = types.Array(types.int32, 1, "C")
_LARGEST = 2**31 - 1


def table_size(taps: int, columns: int) -> int:
    """Numbers of a table for so many taps and grid points: a place each, and a mask."""
    return 2 * taps * -(-columns // COLUMNS) * COLUMNS


def _gather_columns(
    typing_context: Any,
    values: Any,
    base: Any,
    table: Any,
    places: Any,
    masks: Any,
    target: Any,
    start: Any,
    ahead: Any,
) -> tuple[Any, Any]:
    """target[start + j] = values[base + table[places + j]] if table[masks + j] else 0, j below COLUMNS.

    Meanwhile what lies at `ahead` in place of base is brought to the cache.
    """
    signature = types.void(
        FLOATS, types.int64, _NUMBERS, types.int64, types.int64, FLOATS, types.int64, types.int64
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        values, base, table, places, masks, target, start, ahead = arguments
        emit = Vectors(builder)
        source = pointer_at(context, builder, FLOATS, values, base)
        later = pointer_at(context, builder, FLOATS, values, ahead)
        places, masks = (pointer_at(context, builder, _NUMBERS, table, place) for place in (places, masks))
        target = pointer_at(context, builder, FLOATS, target, start)
        for first in range(0, COLUMNS, LANES):
            vector = ir.Constant(_VECTOR, ir.Undefined)
            for lane in range(LANES):
                place = builder.sext(builder.load(builder.gep(places, [index(first + lane)])), _INDEX)
                value = builder.load(builder.gep(source, [place]))
                vector = builder.insert_element(vector, value, ir.Constant(_LANE, lane))
                if lane == 0:
                    emit.prefetch(builder.gep(later, [place]))
            here = builder.bitcast(builder.gep(masks, [index(first)]), _MASK.as_pointer())
            kept = builder.and_(builder.bitcast(vector, _MASK), builder.load(here, align=4))
            emit.store(builder.bitcast(kept, _VECTOR), builder.gep(target, [index(first)]))
        return context.get_dummy_value()

    return signature, generate


_gather: Callable[..., None] = intrinsic(_gather_columns)


@compile_kernel
def find_pixels(source: Planes, plan: Plan, grid_point: int, count: int, table: np.ndarray) -> bool:
    """Fill a table of int32 for `count` grid points from grid_point on, counted over all images.

    False if their planes do not lie alike in all channels, as some are zeros, or lie too far apart.
    """
    starts, tap_rows, tap_columns = source.starts, plan.tap_rows, plan.tap_columns
    (step_y, step_x), grid = plan.source_step, plan.grid_rows * plan.grid_columns
    first_image, last_image = grid_point // grid, (grid_point + count - 1) // grid
    for image in range(first_image, last_image + 1):
        if starts[image].min() < 0:
            return False
    size = source.height * source.width
    if starts[last_image, 0] - starts[first_image, 0] + size > _LARGEST:
        return False
    columns = -(-count // COLUMNS) * COLUMNS
    masks = len(tap_rows) * columns
    table[: 2 * masks] = 0
    for tap in range(len(tap_rows)):
        image, pixel = divmod(grid_point, grid)
        row, column = divmod(pixel, plan.grid_columns)
        for j in range(tap * columns, tap * columns + count):
            y, x = row * step_y + tap_rows[tap], column * step_x + tap_columns[tap]
            if 0 <= y < source.height and 0 <= x < source.width:
                table[j] = starts[image, 0] - starts[first_image, 0] + y * source.width + x
                table[masks + j] = -1
            column += 1
            if column == plan.grid_columns:
                column = 0
                row += 1
                if row == plan.grid_rows:
                    row = 0
                    image += 1
    return True


@compile_kernel
def gather_found(
    source: Planes,
    first_channel: int,
    plan: Plan,
    first: int,
    size: int,
    grid_point: int,
    count: int,
    table: np.ndarray,
    target: np.ndarray,
    pitch: int,
    panel_pitch: int,
) -> None:
    """As `gather`, by the table of these grid points: COLUMNS of them a panel, `pitch` floats a pair."""
    values, starts, taps = source.values, source.starts, len(plan.tap_rows)
    image = grid_point // (plan.grid_rows * plan.grid_columns)
    panels = -(-count // COLUMNS)
    masks = taps * panels * COLUMNS
    channel, tap = divmod(first, taps)
    channel += first_channel
    for k in range(size):
        base = starts[image, channel]
        ahead = starts[image, channel + AHEAD] if tap == 0 and channel + AHEAD < starts.shape[1] else base
        for panel in range(panels):
            place = (tap * panels + panel) * COLUMNS
            _gather(values, base, table, place, masks + place, target, panel * panel_pitch + k * pitch, ahead)
        tap += 1
        if tap == taps:
            tap = 0
            channel += 1
