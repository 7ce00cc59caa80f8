"""The engine under convolution: correlation of packed planes with a table of taps.

Forward, backward-data and transposed convolution are one computation. A source image is copied, a
stripe of rows at a time, into zero-padded planes (with a stride above 1, one plane a phase: pixels that many
apart become neighbours). A pixel of the target then is a sum over source channels and taps whose addresses
are the pixel's own plus a fixed offset a tap. So no matrix of columns is ever built, and the pixels of a
stripe are one flat run for the vector units: the few positions past a row's end are computed and dropped.
"""

import itertools
from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.convolutions.blocked_product import DEPTH, multiply_block, tiles, windows
from dhhpc_kernels.cpu.convolutions.copying import copy_floats
from dhhpc_kernels.cpu.convolutions.geometry import Correlation, Pair, Planes
from dhhpc_kernels.cpu.line_products import add_products
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, VECTORS
from dhhpc_kernels.cpu.vector_moves import copy_second
from dhhpc_kernels.turns import take_turn

F = np.float32

_STRIPE_FLOATS = 80 * 1024  # of a stripe's planes and sums, to stay in the second-level cache
_LONGEST_RUN = 2048  # pixels of a stripe


class Plan(NamedTuple):
    """How one correlation walks over its arrays; the target's pixels lie on a grid, one a phase."""

    groups: int
    source_channels: int  # of a group
    target_channels: int  # of a group
    grid_rows: int
    grid_columns: int
    pitch: int  # floats from one row of a packed plane to the next
    plane_rows_more: int  # rows of a packed plane beyond the stripe's
    stripe_rows: int
    plane: int  # floats of a packed plane
    source_step: Pair
    source_starts: np.ndarray  # (planes a channel, 2) source row and column of a plane's first pixel
    target_step: Pair
    target_starts: np.ndarray  # (phases, 2) target row and column of the grid's first pixel; may be outside
    tap_starts: np.ndarray  # (phases + 1,) where each phase's taps begin
    offsets: (
        np.ndarray
    )  # (source_channels * all taps + padding,) phase after phase, channels outer, taps inner
    turned: bool  # whether the weights are those of `turn_weights`, else as they are
    weight_step: int  # floats from one weight of a target channel to the next
    weight_steps: np.ndarray  # (DEPTH,)
    counting: np.ndarray  # (DEPTH,) 0, 1, 2 ...


def _windows_of_stripes(grid_rows: int, stripe_rows: int, pitch: int, columns: int) -> int:
    """Windows that the stripes of an image take, each rounded up to whole ones."""
    stripes, rest = divmod(grid_rows, stripe_rows)
    return stripes * windows((stripe_rows - 1) * pitch + columns) + (
        windows((rest - 1) * pitch + columns) if rest else 0
    )


def make_plan(correlation: Correlation, turned: bool) -> Plan:
    """Lay out a correlation whose weights are turned or as they are."""
    weight_step = ROWS if turned else 1
    grid_rows, grid_columns = correlation.grid
    channels, targets, step = (
        correlation.source_channels,
        correlation.target_channels,
        correlation.source_step,
    )
    taps = [tap for phase in correlation.taps for tap in phase]
    top, left = (min(tap[axis] for tap in taps) for axis in (1, 2))
    # Of each tap: which plane of its channel, and where in it the first grid point's pixel lies.
    which = [((row - top) % step[0], (column - left) % step[1]) for _, row, column in taps]
    places = [((row - top) // step[0], (column - left) // step[1]) for _, row, column in taps]
    planes = sorted(set(which))
    span = tuple(max(place[axis] for place in places) for axis in (0, 1))
    pitch = grid_columns + span[1]
    row_floats = (channels * len(planes) + targets) * pitch
    most_rows = max(1, min(grid_rows, _LONGEST_RUN // pitch, _STRIPE_FLOATS // row_floats - span[0]))
    stripe_rows = min(
        range(-(-most_rows // 2), most_rows + 1),
        key=lambda rows: (_windows_of_stripes(grid_rows, rows, pitch, grid_columns), -rows),
    )
    plane = (stripe_rows + span[0]) * pitch + span[1] + COLUMNS
    inside = [
        planes.index(one) * plane + row * pitch + column
        for one, (row, column) in zip(which, places, strict=True)
    ]
    starts = np.cumsum([0] + [len(phase) for phase in correlation.taps])
    offsets = [
        channel * len(planes) * plane + offset
        for first, last in itertools.pairwise(starts)
        for channel in range(channels)
        for offset in inside[first:last]
    ]
    return Plan(
        correlation.groups,
        channels,
        targets,
        grid_rows,
        grid_columns,
        pitch,
        span[0],
        stripe_rows,
        plane,
        step,
        np.array([(top + row, left + column) for row, column in planes], np.int64),
        correlation.target_step,
        np.array(correlation.target_starts, np.int64),
        starts.astype(np.int64),
        np.array(offsets + [0] * VECTORS, np.int64),
        turned,
        weight_step,
        np.arange(DEPTH, dtype=np.int64) * weight_step,
        np.arange(DEPTH, dtype=np.int64),
    )


def planes_size(plan: Plan) -> int:
    """Floats of the packed planes of one group's stripe."""
    return plan.source_channels * len(plan.source_starts) * plan.plane


def run_size(plan: Plan) -> int:
    """Floats of one channel of a stripe, rounded up to whole tiles."""
    return -(-plan.stripe_rows * plan.pitch // COLUMNS) * COLUMNS


def correlate_workspace(plan: Plan) -> int:
    """Floats that one thread of `correlate` needs."""
    return planes_size(plan) + tiles(plan.target_channels) * ROWS * run_size(plan) + ROWS * DEPTH


@compile_part
def _pack_planes(
    source: Planes, image: int, first: int, packed: np.ndarray, plan: Plan, first_row: int, rows: int
) -> None:
    """Copy a stripe of an image's planes, the group's begin with channel `first`; zero outside of them."""
    values, starts = source.values, source.starts
    height, width = source.height, source.width
    step_y, step_x = plan.source_step
    pitch = plan.pitch
    safe = values.size - 2 * LANES
    for channel in range(plan.source_channels):
        start_plane = starts[image, first + channel]
        for which in range(len(plan.source_starts)):
            start = plan.source_starts[which, 1]
            # Columns whose source lies inside the image: 0 <= column * step_x + start < width.
            left = min(pitch, max(0, -(start // step_x)))
            right = max(left, min(pitch, (width - 1 - start) // step_x + 1))
            place = (channel * len(plan.source_starts) + which) * plan.plane
            for row in range(rows + plan.plane_rows_more):
                y = (first_row + row) * step_y + plan.source_starts[which, 0]
                if y < 0 or y >= height or start_plane < 0:
                    packed[place : place + pitch] = F(0)
                else:
                    for i in range(place, place + left):
                        packed[i] = F(0)
                    begin = start_plane + y * width + left * step_x + start
                    if step_x == 1:
                        copy_floats(values, begin, packed, place + left, right - left)
                    elif step_x == 2 and begin + 2 * (right - left) <= safe:
                        # Whole vectors: what they overwrite behind the row is written again.
                        for i in range(0, right - left, LANES):
                            copy_second(values, begin + 2 * i, packed, place + left + i)
                    else:
                        for i in range(right - left):
                            packed[place + left + i] = values[begin + i * step_x]
                    for i in range(place + right, place + pitch):
                        packed[i] = F(0)
                place += pitch
            # What vectors read beyond the last row must be a number: it is multiplied by 0.
            packed[place : (channel * len(plan.source_starts) + which + 1) * plan.plane] = F(0)


@compile_part
def _store_rows(
    runs: np.ndarray,
    begin: int,
    pitch: int,
    rows: int,
    columns: int,
    out: np.ndarray,
    plane: int,
    size: Pair,
    first: Pair,
    step: Pair,
) -> None:
    """Write rows and columns of the flat run at runs[begin] to the plane at out[plane].

    size: the plane's height and width. Row 0 and column 0 go to `first`, the next ones `step` farther; what
    lies outside is dropped.
    """
    height, width = size
    left = max(0, -(first[1] // step[1]))
    right = min(columns, (width - 1 - first[1]) // step[1] + 1)
    for row in range(rows):
        y = first[0] + row * step[0]
        if 0 <= y < height and left < right:
            here = begin + row * pitch
            there = plane + y * width + left * step[1] + first[1]
            if step[1] == 1:
                copy_floats(runs, here + left, out, there, right - left)
            else:
                line = runs[here + left : here + right]
                target = out[there:]
                for i in range(line.size):
                    target[i * step[1]] = line[i]


@compile_kernel
def correlate(
    source: Planes,
    weights: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    plan: Plan,
    turns: np.ndarray,
    units: int,
) -> None:
    """Stripes (numbered over all images) of out from source, in turn with other threads.

    weights: flat, those of a convolution forward or `turn_weights`'s.
    bias: one value a target channel, or empty. workspace: `correlate_workspace`.
    """
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    values, starts, offsets = out.values, out.starts, plan.offsets
    counting, weight_steps = plan.counting, plan.weight_steps
    tap_starts, target_starts = plan.tap_starts, plan.target_starts
    size = (out.height, out.width)
    pitch, step_y = plan.pitch, plan.target_step[0]
    stripes = -(-plan.grid_rows // plan.stripe_rows)
    channels, targets = plan.source_channels, plan.target_channels
    weight_rows = -(-targets // ROWS) * ROWS if plan.turned else targets
    edge, rest = workspace[: ROWS * DEPTH], workspace[ROWS * DEPTH :]
    planes = channels * len(plan.source_starts) * plan.plane
    packed, runs = rest[:planes], rest[planes:]
    run_pitch = -(-plan.stripe_rows * pitch // COLUMNS) * COLUMNS
    unit = take_turn(turns)
    while unit < units:
        n = unit // stripes
        first_row = (unit % stripes) * plan.stripe_rows
        rows = min(plan.stripe_rows, plan.grid_rows - first_row)
        length = (rows - 1) * pitch + plan.grid_columns
        weight = 0
        for g in range(plan.groups):
            _pack_planes(source, n, g * channels, packed, plan, first_row, rows)
            for phase in range(len(tap_starts) - 1):
                offset = tap_starts[phase] * channels
                depth = tap_starts[phase + 1] * channels - offset
                corner = (first_row * step_y + target_starts[phase, 0], target_starts[phase, 1])
                if depth == 0:  # a stride beyond the kernel: no tap reaches this phase
                    runs[:] = F(0)
                for piece in range(0, depth, DEPTH):
                    multiply_block(
                        weights,
                        weight + piece * plan.weight_step,
                        ROWS * depth,
                        1 if plan.turned else depth,
                        weight_steps,
                        min(DEPTH, depth - piece),
                        weight_rows,
                        packed,
                        offsets,
                        offset + piece,
                        COLUMNS,
                        -(-length // COLUMNS),
                        runs,
                        run_pitch,
                        piece > 0,
                        edge,
                        counting,
                    )
                weight += depth * weight_rows
                for i in range(targets):
                    channel = g * targets + i
                    if bias.size:
                        run = runs[i * run_pitch : i * run_pitch + length]
                        for p in range(length):
                            run[p] += bias[channel]
                    _store_rows(
                        runs,
                        i * run_pitch,
                        pitch,
                        rows,
                        plan.grid_columns,
                        values,
                        starts[n, channel],
                        size,
                        corner,
                        plan.target_step,
                    )
        unit = take_turn(turns)


@compile_kernel
def correlate_weights(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first: int,
    last: int,
) -> None:
    """Register blocks first to last (of every group's target channels) of grad_weight (groups, K, C*taps).

    The plan is the forward correlation's. workspace: planes_size, then ROWS runs a block, then
    ROWS * (depth + VECTORS) sums a block.
    """
    offsets = plan.offsets
    channels = plan.source_channels
    depth = channels * plan.tap_starts[-1]
    depth_pitch = depth + VECTORS
    planes = channels * len(plan.source_starts) * plan.plane
    run_pitch = -(-plan.stripe_rows * plan.pitch // COLUMNS) * COLUMNS
    packed = workspace[:planes]
    runs = workspace[planes : planes + (last - first) * ROWS * run_pitch]
    sums = workspace[planes + runs.size : planes + runs.size + (last - first) * ROWS * depth_pitch]
    for g in range(plan.groups):
        sums[:] = F(0)
        targets = min(plan.target_channels, last * ROWS) - first * ROWS
        runs[targets * run_pitch :] = F(0)
        for n in range(len(source.starts)):
            for first_row in range(0, plan.grid_rows, plan.stripe_rows):
                rows = min(plan.stripe_rows, plan.grid_rows - first_row)
                length = (rows - 1) * plan.pitch + plan.grid_columns
                _pack_planes(source, n, g * channels, packed, plan, first_row, rows)
                for k in range(targets):
                    begin = grad_out.starts[n, g * plan.target_channels + first * ROWS + k]
                    for row in range(rows):
                        place = k * run_pitch + row * plan.pitch
                        line = runs[place : place + plan.grid_columns]
                        pixels = grad_out.values[begin + (first_row + row) * grad_out.width :]
                        for i in range(line.size):
                            line[i] = pixels[i]
                        runs[place + plan.grid_columns : place + plan.pitch] = F(0)
                    runs[k * run_pitch + rows * plan.pitch : (k + 1) * run_pitch] = F(0)
                for block in range(last - first):
                    for column in range(0, depth, VECTORS):
                        add_products(
                            runs,
                            block * ROWS * run_pitch,
                            run_pitch,
                            packed,
                            offsets,
                            column,
                            length,
                            sums,
                            block * ROWS * depth_pitch + column,
                            depth_pitch,
                        )
        for k in range(targets):
            grad_weight[g, first * ROWS + k] = sums[k * depth_pitch : k * depth_pitch + depth]
