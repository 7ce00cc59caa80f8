"""Between planes of pixels and a matrix product: how both lie, and storing its results."""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_part
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.microkernel import LANES, LINE
from dhhpc_kernels.cpu.vector_moves import interleave, interleave_squares, move, stream

F = np.float32

CACHED_FLOATS = 512 * 1024  # larger arrays are written past the caches: nobody finds them there later


class Plan(NamedTuple):
    """A `Correlation` as arrays for the kernels, with the size of its chunks.

    What the taps of all phases meet is gathered once: the taps here are those that differ.
    """

    groups: int
    source_channels: int
    target_channels: int
    grid_rows: int
    grid_columns: int
    source_step: Pair
    target_step: Pair
    phases: np.ndarray  # (step rows, step columns) of each pixel of the target's step its phase, -1 for none
    phase_taps: np.ndarray  # (phases,)
    tap_rows: np.ndarray  # (taps,)
    tap_columns: np.ndarray
    lines: np.ndarray  # (phases * phase_lines,) where a phase's pairs of a channel and a tap lie in a panel
    phase_lines: int
    piece: int  # channels gathered at once
    panel: int  # floats from one panel of WIDTH columns to the next
    tile_depths: np.ndarray  # (phases,) lines of packed weights a tile
    rows: int  # target channels at once
    chunk: int  # columns gathered at once


@compile_part
def scatter(
    sums: np.ndarray,
    phase_pitch: int,
    bias: np.ndarray,
    out: Planes,
    channel: int,
    rows: int,
    sums_row: int,
    plan: Plan,
    image: int,
    row: int,
    column: int,
    count: int,
) -> None:
    """Write `count` grid points from (image, row, column) on to `rows` channels of out; add the bias.

    sums: `plan.chunk` zeros, for pixels of no phase; then the phases', `phase_pitch` floats from one to the
    next, of each rows of `plan.chunk` floats, these channels' from `sums_row` on; up to LANES floats behind
    them are read.
    """
    values, starts, phases = out.values, out.starts, plan.phases
    width = out.width
    step_y, step_x = plan.target_step
    squares = step_y == step_x == 2 and plan.grid_columns >= LANES // 2 and 2 * plan.grid_columns == width
    # What a vector of a narrow row writes too much is written over by the following row, so not the last one.
    followed = 1 if plan.grid_columns < LANES else 0
    past_caches = values.size > CACHED_FLOATS
    address = values.ctypes.data // 4
    for k in range(channel, channel + rows):
        n, y, x = image, row, column
        before = (sums_row + k - channel + 1) * plan.chunk  # floats of the sums
        place, end = before, before + count
        add = bias[k] if bias.size else F(0)
        while place < end:
            square_rows = 0  # that begin here and are written at once
            if squares and x == 0:
                square_rows = min((end - place) // plan.grid_columns, out.height // 2 - y) - followed
            if step_y == 1 and step_x == 1:
                # Whole planes: the rows of an image follow each other.
                take = min((plan.grid_rows - y) * plan.grid_columns - x, end - place)
                target = starts[n, k] + y * width + x
                # Past the caches go whole lines only: one written both ways, or by two threads, costs more.
                unit = LINE if past_caches else LANES
                head = min(take, -(address + target) % LINE) if past_caches else 0
                tail = head + (take - head) // unit * unit
                for i in range(head):
                    values[target + i] = sums[place + i] + add
                if past_caches:
                    for i in range(head, tail, LANES):
                        stream(sums, place + i, add, values, target + i)
                else:
                    for i in range(head, tail, LANES):
                        move(sums, place + i, add, values, target + i)
                for i in range(tail, take):
                    values[target + i] = sums[place + i] + add
                y = plan.grid_rows - 1
            elif square_rows > 0:
                take = square_rows * plan.grid_columns
                interleave_squares(
                    sums,
                    _place_of(phases[0, 0], phase_pitch, place, before),
                    _place_of(phases[0, 1], phase_pitch, place, before),
                    _place_of(phases[1, 0], phase_pitch, place, before),
                    _place_of(phases[1, 1], phase_pitch, place, before),
                    add,
                    values,
                    starts[n, k] + 2 * y * width,
                    square_rows,
                    plan.grid_columns,
                )
                y += square_rows - 1
            else:
                take = min(plan.grid_columns - x, end - place)
                span = min(take * step_x, width - x * step_x)
                below_end = min(step_y, out.height - y * step_y)
                for below in range(below_end):
                    target = starts[n, k] + (y * step_y + below) * width + x * step_x
                    done = 0
                    if step_x == 2:
                        first = _place_of(phases[below, 0], phase_pitch, place, before)
                        second = _place_of(phases[below, 1], phase_pitch, place, before)
                        # Whole vectors may reach into the target's next row as far as that is written next.
                        if below + 1 < below_end:
                            written_next = span if x == 0 else 0
                        else:
                            written_next = 2 * (end - place - take) if y + 1 < plan.grid_rows else 0
                        beyond = -(-take // LANES) * LANES * 2 - span
                        whole = x + take == plan.grid_columns and beyond <= min(written_next, width)
                        done = take if whole else span // 2 // LANES * LANES
                        for i in range(0, done, LANES):
                            interleave(sums, first + i, second + i, add, values, target + 2 * i)
                    for beside in range(step_x):
                        here = _place_of(phases[below, beside], phase_pitch, place, before)
                        for i in range(done, (span - beside + step_x - 1) // step_x):
                            values[target + i * step_x + beside] = sums[here + i] + add
            place += take
            x = 0
            y += 1
            if y == plan.grid_rows:
                y = 0
                n += 1


@compile_part
def _place_of(phase: int, phase_pitch: int, place: int, before: int) -> int:
    """Where a phase's sum is, from where it is of phase 0: among the zeros if there is no phase."""
    return place + phase * phase_pitch if phase >= 0 else place - before
