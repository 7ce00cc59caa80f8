"""A matrix product on the register-blocked inner loop whose factors are read where they lie."""

import numpy as np

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.microkernel import COLUMNS, ROWS, multiply_rows

F = np.float32

DEPTH = (
    256  # of a piece of the product: what one tile reads of the columns then stays in the first-level cache
)
_BAND = 96  # rows that stay in the second-level cache while the windows of columns go by


def tiles(rows: int) -> int:
    """Tiles of ROWS that hold so many rows."""
    return -(-rows // ROWS)


def windows(columns: int) -> int:
    """Windows of COLUMNS that hold so many columns."""
    return -(-columns // COLUMNS)


@compile_part
def multiply_block(
    rows: np.ndarray,
    row: int,
    tile_pitch: int,
    row_pitch: int,
    steps: np.ndarray,
    depth: int,
    count: int,
    source: np.ndarray,
    offsets: np.ndarray,
    offset: int,
    window_pitch: int,
    window_count: int,
    sums: np.ndarray,
    pitch: int,
    add: bool,
    edge: np.ndarray,
    counting: np.ndarray,
) -> None:
    """sums[i*pitch + w*COLUMNS + j] = or += sum over k of left_ik * right_kwj, k below depth.

    left_ik = rows[row + i // ROWS * tile_pitch + i % ROWS * row_pitch + steps[k]], i below count.
    right_kwj = source[w*window_pitch + offsets[offset + k] + j], w below window_count.
    sums has whole tiles of rows. edge: ROWS * depth floats, for the last rows if they fill no tile.
    counting: 0, 1, 2 ...
    """
    whole = count // ROWS * ROWS
    for band in range(0, whole, _BAND):
        for window in range(window_count):
            for i in range(band, min(band + _BAND, whole), ROWS):
                multiply_rows(
                    rows,
                    row + i // ROWS * tile_pitch,
                    row_pitch,
                    steps,
                    depth,
                    source,
                    window * window_pitch,
                    offsets,
                    offset,
                    sums,
                    i * pitch + window * COLUMNS,
                    pitch,
                    add,
                )
    if whole < count:
        for i in range(ROWS):
            here = row + whole // ROWS * tile_pitch + i * row_pitch
            for k in range(depth):
                edge[i * depth + k] = rows[here + steps[k]] if whole + i < count else F(0)
        for window in range(window_count):
            multiply_rows(
                edge,
                0,
                depth,
                counting,
                depth,
                source,
                window * window_pitch,
                offsets,
                offset,
                sums,
                whole * pitch + window * COLUMNS,
                pitch,
                add,
            )
