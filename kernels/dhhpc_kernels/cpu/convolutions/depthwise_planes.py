"""The tiles that depthwise convolution works on, and the zero-padded planes that they read.

With a stride above 1 along the rows, pixels that many apart become neighbours in the packed planes (one phase
of columns behind the other), so that a tap's pixels are whole vectors.
"""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.convolutions.depthwise_kernels import BLOCK_ROWS, NARROW, TAPS
from dhhpc_kernels.cpu.convolutions.geometry import Pair
from dhhpc_kernels.cpu.convolutions.memory_places import clear_run, copy_every, copy_rows, unzip_vectors
from dhhpc_kernels.cpu.microkernel import LANES

_PACKED_FLOATS = 6 * 1024  # of a tile's planes: most of a first-level cache
_MOST_COLUMNS = 1024  # of a tile


class Layout(NamedTuple):
    """Where a depthwise correlation's numbers lie.

    The target's pixels lie on a grid, a phase for each pixel of a step; pixel (y, x) of the grid is for each
    phase a sum over pixels of the packed planes at (y * row_step, x) plus an offset a tap.
    """

    groups: int
    targets: int  # channels of a group
    sources: int  # of a group's target plane, depth taps counted
    depth: int  # target planes of a channel
    grid: Pair
    tile: Pair  # rows and columns of the grid
    tiles: Pair
    row_step: int
    column_step: int
    first: Pair  # source row and column of the first packed pixel; may be outside, then by whole steps
    margin: int  # floats before the first packed pixel, so that the source's first column is aligned
    packed_rows: int
    phase_pitch: int  # floats from one phase of a packed row to the next
    pitch: int  # floats from one packed row to the next
    packed_size: int  # floats of all packed planes, and of what vectors read beyond them
    target_step: Pair


class Plan(NamedTuple):
    """How one depthwise correlation walks over its arrays."""

    layout: Layout
    taps: np.ndarray  # (sources * kernel size,) index into a target channel's weights, phase after phase
    tap_starts: np.ndarray  # (phases + 1,) where each phase's taps begin
    offsets: np.ndarray  # (taps,), then zeros up to a multiple of TAPS


def make_plan(
    groups: int,
    targets: int,
    sources: int,
    depth: int,
    grid: Pair,
    span: Pair,
    source_step: Pair,
    first: Pair,
    target_step: Pair,
    phases: list[list[tuple[int, int, int, int]]],
) -> Plan:
    """Lay out a depthwise correlation.

    span: the farthest tap, in rows and columns from `first`. phases: of each target phase its taps as (index
    into a target channel's weights, source, row, column).
    """
    phases = [sorted(taps, key=lambda tap: tap[1:]) for taps in phases]
    across = -(-grid[1] // _MOST_COLUMNS)
    columns = -(-grid[1] // across)
    margin = min(0, first[1]) // source_step[1] % LANES
    phase_pitch = -(-(columns + span[1] // source_step[1]) // LANES) * LANES
    pitch = phase_pitch * source_step[1]
    # Tall kernels get more rows than fit, for the rows that two tiles share are packed twice.
    limit = (_PACKED_FLOATS // (sources * pitch) - span[0]) // source_step[0]
    limit = max(1, limit, 2 * span[0] // source_step[0])
    down = -(-grid[0] // limit)
    rows = -(-grid[0] // down)
    block_rows = int(BLOCK_ROWS[NARROW])
    whole_blocks = -(-rows // block_rows) * block_rows
    rows = min(whole_blocks, grid[0]) if whole_blocks <= limit else rows
    packed_rows = (rows - 1) * source_step[0] + span[0] + 1
    offsets = [
        margin
        + (source * packed_rows + row) * pitch
        + column % source_step[1] * phase_pitch
        + column // source_step[1]
        for taps in phases
        for _, source, row, column in taps
    ]
    layout = Layout(
        groups,
        targets,
        sources,
        depth,
        grid,
        (rows, columns),
        (down, across),
        *source_step,
        first,
        margin,
        packed_rows,
        phase_pitch,
        pitch,
        margin + sources * packed_rows * pitch + LANES,
        target_step,
    )
    return Plan(
        layout,
        np.array([tap[0] for taps in phases for tap in taps], np.int64),
        np.cumsum([0] + [len(taps) for taps in phases]).astype(np.int64),
        np.array(offsets + [0] * (-len(offsets) % TAPS), np.int64),
    )


def correlation_workspace(plan: Plan) -> int:
    """Floats that `correlate` needs."""
    rows, columns = plan.layout.tile
    line = plan.layout.target_step[1] * max(columns, LANES)
    return plan.layout.packed_size + len(plan.taps) + rows * line


def weights_workspace(plan: Plan) -> int:
    """Floats that `correlate_weights` needs."""
    rows, columns = plan.layout.tile
    sums = plan.layout.targets * len(plan.offsets) * LANES
    return plan.layout.packed_size + sums + rows * -(-columns // LANES) * LANES


@compile_part
def find_tile(unit: int, layout: Layout) -> tuple[int, int, Pair]:
    """The image (row of the planes' tables), the group, and the grid's corner of a tile."""
    # Divisions that are not needed are left out: together they take as long as the sums of a small tile.
    down, across = layout.tiles
    rest, tile = divmod(unit, down * across) if down * across > 1 else (unit, 0)
    rest, z = divmod(rest, layout.depth) if layout.depth > 1 else (rest, 0)
    sample, group = divmod(rest, layout.groups)
    down, across = divmod(tile, across) if across > 1 else (tile, 0)
    return sample * layout.depth + z, group, (down * layout.tile[0], across * layout.tile[1])


@compile_part
def _split_rows(
    source: int, width: int, packed: int, pitch: int, rows: int, columns: int, step: int, phase_pitch: int
) -> None:
    """packed[y*pitch + x % step * phase_pitch + x // step] = source[y*width + x], both floats at places."""
    pairs = columns // 2
    for row in range(rows):
        here, there = source + row * width, packed + row * pitch
        if step != 2 or pairs < LANES:
            for phase in range(step):
                count = -((phase - columns) // step)
                copy_every(here + phase, step, there + phase * phase_pitch, 1, count)
        else:
            for i in range(0, pairs - LANES + 1, LANES):
                unzip_vectors(here + 2 * i, there + i, phase_pitch)
            last = pairs - LANES
            unzip_vectors(here + 2 * last, there + last, phase_pitch)
            copy_every(here + 2 * pairs, 1, there + pairs, 1, columns % 2)


@compile_part
def pack_plane(source: int, size: Pair, packed: int, layout: Layout, corner: Pair) -> None:
    """Copy what a tile needs of the plane of floats at a place, 0 for a plane of zeros.

    What is packed of the columns beyond the plane's must be zeros already.
    """
    height, width = size
    pitch, step = layout.pitch, layout.column_step
    first_row = corner[0] * layout.row_step + layout.first[0]
    first_column = corner[1] * step + layout.first[1]
    low = max(0, -first_column)  # a multiple of step
    count = max(0, min(pitch, width - first_column) - low)
    above = min(layout.packed_rows, max(0, -first_row)) if source else layout.packed_rows
    below = max(above, min(layout.packed_rows, height - first_row))
    clear_run(packed, above * pitch)
    clear_run(packed + below * pitch, (layout.packed_rows - below) * pitch)
    begin = source + first_row * width + first_column + low
    if step == 1:
        copy_rows(begin + above * width, width, packed + above * pitch + low, pitch, below - above, count)
    else:
        here, there = begin + above * width, packed + above * pitch + low // step
        _split_rows(here, width, there, pitch, below - above, count, step, layout.phase_pitch)
