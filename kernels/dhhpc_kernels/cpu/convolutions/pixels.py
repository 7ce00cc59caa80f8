"""Between planes of pixels and a matrix product: gathering its columns, storing its results."""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, LINE
from dhhpc_kernels.cpu.vector_moves import (
    copy_columns,
    copy_lanes,
    copy_second,
    interleave,
    interleave_squares,
    prefetch,
    stream,
)

F = np.float32

AHEAD = 4  # channels: those that are soon gathered are on their way from memory meanwhile
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
    tabled: bool  # whether a table tells where the gathered pixels lie
    target_step: Pair
    phases: np.ndarray  # (step rows, step columns) of each pixel of the target's step its phase, -1 for none
    weight_starts: np.ndarray  # (phases + 1,) taps of the weights before each phase's
    tap_rows: np.ndarray  # (taps,)
    tap_columns: np.ndarray
    turned: bool  # whether the weights are those of `turn_weights`, else as they are
    weight_step: int  # floats from one weight of a target channel to the next
    weight_steps: np.ndarray  # (n,), n being DEPTH or a piece, if that is more
    counting: np.ndarray  # (n,) 0, 1, 2 ...
    line_steps: np.ndarray  # (n,) from one line of a panel to the next
    panel_steps: np.ndarray  # (phases * piece,) where a phase's pairs of a channel and a tap lie in a panel
    piece: int  # pairs of a channel and a tap gathered at once, of whole channels
    rows: int  # target channels at once
    chunk: int  # columns gathered at once


@compile_kernel
def gather(
    source: Planes,
    first_channel: int,
    plan: Plan,
    first: int,
    size: int,
    grid_point: int,
    count: int,
    lines: np.ndarray,
    pitch: int,
    packed: np.ndarray,
) -> None:
    """What `count` grid points meet under `size` pairs of a channel and a tap; zeros outside of the planes.

    grid_point: the first one, counted over all images. The pairs are numbered from `first`, a channel's one
    after the other. Each makes a line of its own, `pitch` floats from the next, of which up to LANES more
    are overwritten. Unless packed is empty, lines lie over each other and go to rows of panels.
    """
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    values, starts = source.values, source.starts
    tap_rows, tap_columns = plan.tap_rows, plan.tap_columns
    height, width = source.height, source.width
    step_y, step_x = plan.source_step
    grid_rows, grid_columns = plan.grid_rows, plan.grid_columns
    taps = len(tap_rows)
    safe = values.size - 2 * step_x * LANES  # reading whole vectors
    first_image, pixel = divmod(grid_point, grid_rows * grid_columns)
    first_row, first_column = divmod(pixel, grid_columns)
    panels = -(-count // COLUMNS)
    panel_pitch = size * COLUMNS + LINE  # so that panels begin in different sets of the first-level cache
    whole_panels = count // COLUMNS
    flat = step_y == 1 and step_x == 1 and width == grid_columns
    one_row = first_column + count <= grid_columns and step_x == 1
    channel, tap = divmod(first, taps)
    channel += first_channel
    for k in range(size):
        start_y, start_x = tap_rows[tap], tap_columns[tap]
        image, row, column = first_image, first_row, first_column
        start = starts[image, channel]
        if taps == 1 and flat and channel + AHEAD < starts.shape[1]:
            later = starts[image, channel + AHEAD] + row * width + column
            for i in range(0, count, LINE):
                prefetch(values, later + i)
        done = 0
        if packed.size and one_row and start >= 0:
            y, x = row * step_y + start_y, column + start_x
            if 0 <= y < height and x >= 0 and x + count <= width:
                # Pixels that follow each other, as of a pointwise convolution: they need no line.
                begin = start + y * width + x
                for panel in range(whole_panels):
                    copy_columns(values, begin + panel * COLUMNS, packed, panel * panel_pitch + k * COLUMNS)
                done = whole_panels * COLUMNS
                column += done
        place = k * pitch + done
        end = k * pitch + count
        while flat and place < end:
            # A tap shifts the whole plane; what it then takes from other rows is overwritten with zeros.
            pixel = row * grid_columns + column
            take = min(grid_rows * grid_columns - pixel, end - place)
            top = bottom = take
            if start >= 0:
                top = min(take, max(0, -start_y * width - pixel))
                bottom = max(top, min(take, (height - start_y) * width - pixel))
            begin = start + pixel + start_y * width + start_x
            if begin + top < 0 or begin + bottom > safe:
                for i in range(top, bottom):
                    lines[place + i] = values[min(max(begin + i, 0), values.size - 1)]
            else:
                for i in range(top, bottom, LANES):
                    copy_lanes(values, begin + i, lines, place + i)
            for i in range(top):
                lines[place + i] = F(0)
            for i in range(bottom, take):
                lines[place + i] = F(0)
            outside = (max(0, width - start_x), width) if start_x > 0 else (0, min(width, -start_x))
            for edge in range(outside[0], outside[1]):
                for i in range((edge - column) % width, take, width):
                    lines[place + i] = F(0)
            place += take
            row = column = 0
            image += 1
            if place < end:
                start = starts[image, channel]
        # Columns of the grid whose source lies inside: 0 <= column * step_x + start_x < width.
        if step_x == 1:
            inside_left, inside_right = -start_x, width - start_x
        else:
            inside_left, inside_right = -(start_x // step_x), (width - 1 - start_x) // step_x + 1
        while place < end:
            take = min(grid_columns - column, end - place)
            y = row * step_y + start_y
            if start < 0 or y < 0 or y >= height:
                for i in range(place, place + take):
                    lines[i] = F(0)
            else:
                left = min(take, max(0, inside_left - column))
                right = max(left, min(take, inside_right - column))
                begin = start + y * width + column * step_x + start_x
                if step_x == 2 and tap == 0 and channel + AHEAD < starts.shape[1]:
                    later = starts[image, channel + AHEAD] + y * width + column * step_x
                    for i in range(0, take * step_x, LINE):
                        prefetch(values, later + i)
                if step_x > 2 or begin + right * step_x > safe:
                    for i in range(left, right):
                        lines[place + i] = values[begin + i * step_x]
                elif step_x == 1:
                    for i in range(left, right, LANES):
                        copy_lanes(values, begin + i, lines, place + i)
                else:
                    for i in range(left, right, LANES):
                        copy_second(values, begin + 2 * i, lines, place + i)
                if left > 0:
                    for i in range(place, place + left):
                        lines[i] = F(0)
                if right < take:
                    for i in range(place + right, place + take):
                        lines[i] = F(0)
            place += take
            column = 0
            row += 1
            if row == grid_rows:
                row = 0
                image += 1
                if place < end:
                    start = starts[image, channel]
        if packed.size and done < count:
            for i in range(end, k * pitch + panels * COLUMNS):
                lines[i] = F(0)
            for panel in range(done // COLUMNS, panels):
                copy_columns(lines, k * pitch + panel * COLUMNS, packed, panel * panel_pitch + k * COLUMNS)
        tap += 1
        if tap == taps:
            tap = 0
            channel += 1


@compile_kernel
def scatter(
    sums: np.ndarray,
    phase_pitch: int,
    bias: np.ndarray,
    out: Planes,
    channel: int,
    rows: int,
    plan: Plan,
    image: int,
    row: int,
    column: int,
    count: int,
) -> None:
    """Write `count` grid points from (image, row, column) on to `rows` channels of out; add the bias.

    sums: `plan.chunk` zeros, for pixels of no phase; then the phases', `phase_pitch` floats from one to the
    next, of each a row of `plan.chunk` floats for each channel; up to LANES floats behind them are read.
    """
    values, starts, phases = out.values, out.starts, plan.phases
    width = out.width
    step_y, step_x = plan.target_step
    squares = step_y == step_x == 2 and plan.grid_columns >= LANES and 2 * plan.grid_columns == width
    past_caches = values.size > CACHED_FLOATS
    address = values.ctypes.data // 4
    for k in range(channel, channel + rows):
        n, y, x = image, row, column
        before = (k - channel + 1) * plan.chunk  # floats of the sums
        place, end = before, before + count
        add = bias[k] if bias.size else F(0)
        while place < end:
            if step_y == 1 and step_x == 1:
                # Whole planes: the rows of an image follow each other.
                take = min((plan.grid_rows - y) * plan.grid_columns - x, end - place)
                target = starts[n, k] + y * width + x
                # Whole cache lines only: one written both ways, or by two threads, costs many times more.
                aligned = min(take, -(address + target) % LINE) if past_caches else take
                for i in range(aligned):
                    values[target + i] = sums[place + i] + add
                streamed = (take - aligned) // LINE * LINE + aligned
                for i in range(aligned, streamed, LANES):
                    stream(sums, place + i, add, values, target + i)
                for i in range(streamed, take):
                    values[target + i] = sums[place + i] + add
                y = plan.grid_rows - 1
            elif squares and x == 0 and end - place >= plan.grid_columns and 2 * y + 1 < out.height:
                whole_rows = min((end - place) // plan.grid_columns, out.height // 2 - y)
                take = whole_rows * plan.grid_columns
                interleave_squares(
                    sums,
                    _place_of(phases[0, 0], phase_pitch, place, before),
                    _place_of(phases[0, 1], phase_pitch, place, before),
                    _place_of(phases[1, 0], phase_pitch, place, before),
                    _place_of(phases[1, 1], phase_pitch, place, before),
                    add,
                    values,
                    starts[n, k] + 2 * y * width,
                    whole_rows,
                    plan.grid_columns,
                )
                y += whole_rows - 1
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


@compile_kernel
def _place_of(phase: int, phase_pitch: int, place: int, before: int) -> int:
    """Where a phase's sum is, from where it is of phase 0: among the zeros if there is no phase."""
    return place + phase * phase_pitch if phase >= 0 else place - before
