"""Gathering what grid points meet under a tap: by a list of runs, which serves all channels.

A run is a vector's pixels or less of one row. Where runs begin and which of their pixels lie inside of the
plane is alike in every channel. A run is moved as a whole vector, and what that writes beyond the run is
written over by the next one.
"""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import Planes
from dhhpc_kernels.cpu.convolutions.pixels import Plan
from dhhpc_kernels.cpu.microkernel import LANES
from dhhpc_kernels.cpu.vector_moves import copy_runs, copy_second_runs

F = np.float32

_AHEAD = 4  # channels: those that are soon gathered are on their way from memory meanwhile


class Runs(NamedTuple):
    """Runs of some grid points of the images."""

    table: np.ndarray  # of each run where it begins in a plane, where it goes, and `copy_runs`'s inside
    ends: np.ndarray  # for each tap where each image's runs end, in order
    first_image: int
    images: int
    lowest: int  # that is read, from a plane's begin on
    highest: int


@compile_kernel
def run_tables(plan: Plan, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A table and ends, large enough for the runs of so many grid points."""
    taps, grid = len(plan.tap_rows), plan.grid_rows * plan.grid_columns
    return np.empty(3 * taps * count, np.int64), np.empty(taps * (count // grid + 2), np.int64)


@compile_kernel
def find_runs(
    source: Planes,
    plan: Plan,
    grid_point: int,
    count: int,
    width: int,
    panel: int,
    tables: tuple[np.ndarray, np.ndarray],
) -> Runs:
    """The runs of `count` grid points from grid_point on, counted over all images.

    The points are cut into panels of `width`, `panel` floats apart. tables: `run_tables` of as many points.
    """
    table, ends = tables
    (step_y, step_x), columns = plan.source_step, plan.grid_columns
    tap_rows, tap_columns = plan.tap_rows, plan.tap_columns
    first_image, pixel = divmod(grid_point, plan.grid_rows * columns)
    first_row, first_column = divmod(pixel, columns)
    lowest = highest = run = end = 0
    for tap in range(len(tap_rows)):
        row, column, done = first_row, first_column, 0
        # Columns of the grid whose source lies inside: 0 <= column * step_x + tap_column < width.
        inside_left = -(tap_columns[tap] // step_x)
        inside_right = (source.width - 1 - tap_columns[tap]) // step_x + 1
        while done < count:
            line = done % width
            take = min(columns - column, count - done, width - line)
            place = done // width * panel + line
            y = row * step_y + tap_rows[tap]
            begin = y * source.width + column * step_x + tap_columns[tap]
            left = right = 0
            if 0 <= y < source.height:
                left = min(take, max(0, inside_left - column))
                right = max(left, min(take, inside_right - column))
            for i in range(0, right, LANES):
                table[run] = begin + i * step_x
                table[run + 1] = place + i
                table[run + 2] = LANES - min(LANES, max(0, left - i))
                lowest = min(lowest, begin + i * step_x)
                highest = max(highest, begin + (i + LANES) * step_x)
                run += 3
            for i in range(right, take, LANES):
                table[run], table[run + 1], table[run + 2] = 0, place + i, 0
                highest = max(highest, LANES * step_x)
                run += 3
            done += take
            column += take
            if column == columns:
                column = 0
                row += 1
            if row == plan.grid_rows or done == count:
                row = 0
                ends[end] = run // 3
                end += 1
    last_image = (grid_point + count - 1) // (plan.grid_rows * columns)
    return Runs(table, ends, first_image, last_image - first_image + 1, lowest, highest)


@compile_kernel
def gather_runs(
    source: Planes,
    first_channel: int,
    plan: Plan,
    first: int,
    size: int,
    runs: Runs,
    target: np.ndarray,
    pitch: int,
) -> None:
    """What grid points meet under `size` pairs of a channel and a tap; zeros outside of the planes.

    The pairs are numbered from `first`, a channel's one after the other. Each makes a line of a panel,
    `pitch` floats from the next; up to LANES floats behind the last are overwritten.
    """
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    values, starts, table, ends = source.values, source.starts, runs.table, runs.ends
    first_image, images, lowest, highest = runs.first_image, runs.images, runs.lowest, runs.highest
    _, step = plan.source_step
    taps = len(plan.tap_rows)
    channel, tap = divmod(first, taps)
    channel += first_channel
    for k in range(size):
        line = k * pitch
        run = ends[tap * images - 1] if tap > 0 else 0
        for image in range(images):
            base, end = starts[first_image + image, channel], ends[tap * images + image]
            later = starts[first_image + image, min(channel + _AHEAD, starts.shape[1] - 1)]
            if base < 0 or step > 2 or base + lowest < 0 or base + highest > values.size:
                for r in range(3 * run, 3 * end, 3):
                    begin, place, inside = base + table[r], line + table[r + 1], table[r + 2]
                    for i in range(LANES):
                        here = min(max(begin + i * step, 0), values.size - 1)
                        target[place + i] = values[here] if base >= 0 and inside + i >= LANES else F(0)
            elif step == 1:
                copy_runs(values, base, table, run, end, target, line, later)
            else:
                copy_second_runs(values, base, table, run, end, target, line, later)
            run = end
        tap += 1
        if tap == taps:
            tap = 0
            channel += 1
