"""The engine under depthwise convolution: sums over the taps of one channel at a time.

Each channel of a sample is copied, a tile at a time, into a zero-padded plane that stays in the first-level
cache, and its sums go straight to the output: so x and out pass through memory once. While a tile is summed,
the next one's pixels and the output's next rows are fetched. Columns that do not fill the last vector of a
row are computed by one that overlaps its neighbour.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.convolutions.depthwise_kernels import (
    BLOCK_ROWS,
    NARROW,
    PAIRS,
    PAIRS_ROW,
    ROW,
    TAPS,
    WIDE,
    sum_products,
    sum_taps,
)
from dhhpc_kernels.cpu.convolutions.depthwise_planes import Layout, Plan, find_tile, pack_plane
from dhhpc_kernels.cpu.convolutions.geometry import Pair, Planes
from dhhpc_kernels.cpu.convolutions.memory_places import (
    clear_run,
    copy_every,
    copy_run,
    gather_run,
    place_of,
    zip_vectors,
)
from dhhpc_kernels.cpu.microkernel import LANES

F = np.float32


@compile_part
def _join_rows(
    phases: int, pitch: int, phase_pitch: int, out: int, width: int, rows: int, columns: int, step: int
) -> None:
    """out[y*width + x] = phases[y*pitch + x % step * phase_pitch + x // step], both floats at places."""
    pairs = columns // 2
    for row in range(rows):
        here, there = phases + row * pitch, out + row * width
        if step == 1:
            copy_run(here, there, columns)
        elif step != 2 or pairs < LANES:
            for phase in range(step):
                count = -((phase - columns) // step)
                copy_every(here + phase * phase_pitch, 1, there + phase, step, count)
        else:
            for i in range(0, pairs - LANES + 1, LANES):
                zip_vectors(here + i, phase_pitch, there + 2 * i)
            last = pairs - LANES
            zip_vectors(here + last, phase_pitch, there + 2 * last)
            copy_every(here + pairs, 1, there + 2 * pairs, 1, columns % 2)


@compile_part
def _kind(pairs: bool, rows: int, columns: int) -> int:
    """The kind of blocks that computes so many rows and columns."""
    if pairs:
        return PAIRS if rows >= BLOCK_ROWS[PAIRS] else PAIRS_ROW
    if columns <= 2 * LANES and rows >= BLOCK_ROWS[NARROW]:
        return NARROW
    return WIDE if rows >= BLOCK_ROWS[WIDE] else ROW


@compile_part
def _end_of_tile(plane: int, size: Pair, layout: Layout, corner: Pair) -> int:
    """Where the source of the next tile begins: behind what this one needs of the source plane at a place."""
    below = corner[0] * layout.row_step + layout.first[0] + layout.packed_rows
    return plane + max(0, min(below, size[0])) * size[1]


@compile_kernel
def correlate(
    source: Planes,
    weights: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    plan: Plan,
    first: int,
    last: int,
) -> None:
    """Tiles first to last (numbered over all samples and groups) of out, from source and flat weights.

    bias: one value a target channel, or empty.
    """
    # Arrays are taken out of their tuples once, and passed on as places: else references would be counted.
    layout, taps, tap_starts = plan.layout, plan.taps, plan.tap_starts
    starts, height, width = out.starts, out.height, out.width
    source_starts, size = source.starts, (source.height, source.width)
    step_y, step_x = layout.target_step
    row_step, plane = layout.row_step * layout.pitch, layout.packed_rows * layout.pitch
    source_place, out_place, offsets = place_of(source.values), place_of(out.values), place_of(plan.offsets)
    packed = place_of(workspace)
    factors = packed + layout.packed_size
    lines = factors + taps.size
    weights_place, taps_place, taps_count = place_of(weights), place_of(taps), taps.size
    clear_run(packed, layout.packed_size)
    for unit in range(first, last):
        image, group, corner = find_tile(unit, layout)
        if layout.tiles[1] > 1:  # else the columns of zeros stay where they are
            clear_run(packed, layout.packed_size)
        ahead = 0
        for which in range(layout.sources):
            start = source_starts[image, group * layout.sources + which]
            place = source_place + start if start >= 0 else 0
            pack_plane(place, size, packed + layout.margin + which * plane, layout, corner)
            ahead = _end_of_tile(place, size, layout, corner) if place else 0
        columns = min(layout.tile[1], layout.grid[1] - corner[1])
        line = max(columns, LANES)
        whole = min(columns * step_x, width - corner[1] * step_x)
        # Pairs of phases are stored as whole vectors, so no half of a pair may be beyond the row.
        pairs = step_x == 2 and whole == 2 * columns
        direct = columns >= LANES and (step_x == 1 or pairs)
        phases = step_x if direct else 1
        for channel in range(group * layout.targets, (group + 1) * layout.targets):
            gather_run(weights_place + channel * taps_count, taps_place, factors, taps_count)
            initial = bias[channel] if bias.size else F(0)
            for a in range(step_y):
                rows = min(layout.tile[0], -((a - height) // step_y) - corner[0])
                if rows < 1:
                    continue
                start = starts[image, channel] + (corner[0] * step_y + a) * width + corner[1] * step_x
                for b in range(0, step_x, phases):
                    phase = a * step_x + b
                    begin, end = tap_starts[phase], tap_starts[phase + 1]
                    sum_taps(
                        _kind(phases == 2, rows, columns),
                        rows,
                        columns,
                        factors + begin,
                        offsets + 2 * begin,
                        end - begin,
                        tap_starts[phase + phases] - end,
                        initial,
                        packed,
                        row_step,
                        out_place + start if direct else lines + b * line,
                        step_y * width if direct else step_x * line,
                        ahead,
                        layout.row_step * layout.column_step if ahead and phase == 0 else 0,
                    )
                if not direct:
                    there, pitch = out_place + start, step_x * line
                    _join_rows(lines, pitch, line, there, step_y * width, rows, whole, step_x)


@compile_part
def add_lanes(sums: np.ndarray, taps: np.ndarray, grad_weight: np.ndarray, start: int) -> None:
    """The gradient by a channel's weights: of each tap in turn the sum of LANES sums."""
    for i, tap in enumerate(taps):
        total = np.float64(0)
        for lane in range(LANES):
            total += np.float64(sums[i * LANES + lane])
        grad_weight[start + tap] = total


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
    """Groups first to last of flat grad_weight. The plan is the forward correlation's.

    Each tile's sums are added to those of the tiles before, lane by lane: so short sums keep the error low.
    """
    layout, taps = plan.layout, plan.taps
    starts, width = grad_out.starts, grad_out.width
    source_starts, size = source.starts, (source.height, source.width)
    row_step, plane = layout.row_step * layout.pitch, layout.packed_rows * layout.pitch
    source_place, grad_place, offsets = (
        place_of(source.values),
        place_of(grad_out.values),
        place_of(plan.offsets),
    )
    tap_sums = plan.offsets.size * LANES
    packed = place_of(workspace)
    sums = packed + layout.packed_size
    lines = sums + layout.targets * tap_sums
    totals = workspace[layout.packed_size :]
    tile_line = -(-layout.tile[1] // LANES) * LANES
    clear_run(packed, layout.packed_size)
    clear_run(lines, layout.tile[0] * tile_line)
    units = layout.depth * layout.tiles[0] * layout.tiles[1]
    for chosen in range(first, last):
        clear_run(sums, layout.targets * tap_sums)
        for sample in range(len(starts) // layout.depth):
            begin = (sample * layout.groups + chosen) * units
            for unit in range(begin, begin + units):
                image, group, corner = find_tile(unit, layout)
                rows = min(layout.tile[0], layout.grid[0] - corner[0])
                columns = min(layout.tile[1], layout.grid[1] - corner[1])
                if layout.tiles[1] > 1:  # else the columns of zeros stay where they are
                    clear_run(packed, layout.packed_size)
                    clear_run(lines, layout.tile[0] * tile_line)
                for which in range(layout.sources):
                    start = source_starts[image, group * layout.sources + which]
                    place = source_place + start if start >= 0 else 0
                    pack_plane(place, size, packed + layout.margin + which * plane, layout, corner)
                for target in range(layout.targets):
                    start = starts[image, group * layout.targets + target] + corner[0] * width + corner[1]
                    gradient, pitch = grad_place + start, width
                    if columns % LANES:  # the last vector of a row needs zeros behind the row
                        pitch = -(-columns // LANES) * LANES
                        for row in range(rows):
                            copy_run(gradient + row * width, lines + row * pitch, columns)
                        gradient = lines
                    for tap in range(0, plan.offsets.size, TAPS):
                        here = sums + target * tap_sums + tap * LANES
                        sum_products(
                            gradient, pitch, rows, columns, packed, row_step, offsets + 2 * tap, here
                        )
        for target in range(layout.targets):
            channel = chosen * layout.targets + target
            add_lanes(totals[target * tap_sums :], taps, grad_weight, channel * taps.size)
