"""The engine under depthwise convolution: sums over the taps of one channel at a time.

Each channel of a sample is copied, a tile at a time, into a zero-padded plane that stays in the first-level
cache, and its sums go straight to the output: so x and out pass through memory once. While a tile is summed,
the next one's pixels and the output's next rows are fetched. Columns that do not fill the last vector of a
row are computed by one that overlaps its neighbour.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.copying import copy_floats
from dhhpc_kernels.cpu.depthwise_kernels import (
    BLOCKS,
    KINDS,
    NARROW,
    PAIRS,
    PAIRS_ROW,
    ROW,
    TALL_NARROW,
    TALL_STRIDED,
    TALL_WIDE,
    TAPS,
    WIDE,
    prefetch_to_read,
    prefetch_to_write,
    sum_products,
    sum_taps,
    zip_vectors,
)
from dhhpc_kernels.cpu.depthwise_planes import Plan, pack_planes, packed_size, place_of
from dhhpc_kernels.cpu.geometry import Planes, Triple
from dhhpc_kernels.cpu.microkernel import LANES

F = np.float32


@compile_kernel
def _join_rows(
    phases: np.ndarray,
    pitch: int,
    phase_pitch: int,
    out: np.ndarray,
    place: int,
    width: int,
    rows: int,
    columns: int,
    step: int,
) -> None:
    """out[place + y*width + x] = phases[y*pitch + x % step * phase_pitch + x // step]."""
    pairs = columns // 2
    for row in range(rows):
        here, there = row * pitch, place + row * width
        if step != 2 or pairs < LANES:
            for phase in range(step):
                for i in range(-((phase - columns) // step)):
                    out[there + phase + i * step] = phases[here + phase * phase_pitch + i]
        else:
            for i in range(0, pairs - LANES + 1, LANES):
                zip_vectors(phases, here + i, out, there + 2 * i, phase_pitch)
            last = pairs - LANES
            zip_vectors(phases, here + last, out, there + 2 * last, phase_pitch)
            if columns % 2:
                out[there + columns - 1] = phases[here + pairs]


@compile_kernel
def _kind(tall: int, pairs: bool, rows: int, columns: int) -> int:
    """The kind of blocks that computes so many rows and columns."""
    if pairs:
        return PAIRS if rows >= BLOCKS[KINDS[PAIRS]][4] else PAIRS_ROW
    if tall == 2:
        kind = TALL_STRIDED
    elif tall:
        kind = TALL_WIDE if columns > LANES else TALL_NARROW
    else:
        kind = WIDE if columns > 2 * LANES else NARROW
    if rows < BLOCKS[KINDS[kind]][4]:
        kind = WIDE
    return kind if rows >= BLOCKS[KINDS[kind]][4] else ROW


@compile_kernel
def _block(kind: int, columns: int) -> int:
    """Which block of a kind goes on where so many columns are left: the widest not wider than they need."""
    vectors = -(-columns // LANES)
    block = KINDS[kind]
    while BLOCKS[block][3] > vectors:
        block += 1
    return block


@compile_kernel
def _sum_rows(
    factors: np.ndarray,
    offsets: np.ndarray,
    taps: Triple,
    tall: int,
    initial: np.float32,
    packed: np.ndarray,
    row_step: int,
    target: np.ndarray,
    start: int,
    pitch: int,
    rows: int,
    columns: int,
    phases: int,
    direct: bool,
    source: np.ndarray,
    ahead: int,
    ahead_step: int,
) -> None:
    """target[start + y*pitch + x] = a phase's grid at (y, x), y below rows, x below columns.

    taps: where the phase's begin and end, and where those of the phase behind it end; of 2 phases, that one's
    pixels go between the others. tall: as in the plan. direct: the target is no scratch memory.
    ahead: where in the source the next tile begins, or -1; ahead_step of its pixels are asked for with each
    pixel of this tile. Fewer columns than LANES are written LANES wide, each row before the next.
    """
    kind = _kind(tall, phases == 2, rows, columns)
    block_rows = BLOCKS[KINDS[kind]][4]
    for row in range(0, rows, block_rows):
        row = min(row, rows - block_rows)
        column = 0
        while column < columns:
            column = max(0, min(column, columns - LANES))
            block = _block(kind, columns - column)
            vectors = BLOCKS[block][3]
            pixels = block_rows * vectors * LANES
            if ahead >= 0:
                prefetch_to_read(source, ahead, pixels * ahead_step)
                ahead += pixels * ahead_step
            if direct:
                for i in range(row + block_rows, row + 2 * block_rows):
                    there = start + i * pitch + column * phases
                    prefetch_to_write(target, there, vectors * LANES * phases)
            sum_taps(
                block,
                factors,
                offsets,
                taps[0],
                taps[1] - taps[0],
                taps[2] - taps[1],
                initial,
                packed,
                row * row_step + column,
                row_step,
                target,
                start + row * pitch + column * phases,
                pitch,
                max(0, min(columns - column, vectors * LANES) - LANES),
            )
            column += vectors * LANES


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
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    values, starts, height, width = out.values, out.starts, out.height, out.width
    source_values, source_starts, source_size = source.values, source.starts, (source.height, source.width)
    plan_taps, tap_starts, tall, offsets = plan.taps, plan.tap_starts, plan.tall, plan.offsets
    step_y, step_x = plan.target_step
    count = plan_taps.size
    row_step = plan.row_step * plan.pitch
    size = packed_size(plan)
    packed, factors, lines = workspace[:size], workspace[size : size + count], workspace[size + count :]
    packed[:] = F(0)
    for unit in range(first, last):
        image, group, corner = place_of(unit, plan)
        columns = min(plan.tile[1], plan.grid[1] - corner[1])
        line = max(columns, LANES)
        whole = min(columns * step_x, width - corner[1] * step_x)
        # Pairs of phases are stored as whole vectors, so no half of a pair may be beyond the row.
        pairs = step_x == 2 and whole == 2 * columns
        direct = columns >= LANES and (step_x == 1 or pairs)
        phases = step_x if direct else 1
        pack_planes(source_values, source_starts, source_size, image, group, packed, plan, corner)
        ahead = source_starts[image, (group + 1) * plan.sources - 1]
        if ahead >= 0:
            below = corner[0] * plan.row_step + plan.first[0] + plan.packed_rows
            ahead += max(0, min(below, source_size[0])) * source_size[1]
        for channel in range(group * plan.targets, (group + 1) * plan.targets):
            for k in range(count):
                factors[k] = weights[channel * count + plan_taps[k]]
            initial = bias[channel] if bias.size else F(0)
            for a in range(step_y):
                rows = min(plan.tile[0], -((a - height) // step_y) - corner[0])
                start = starts[image, channel] + (corner[0] * step_y + a) * width + corner[1] * step_x
                for b in range(0, step_x, phases):
                    phase = a * step_x + b
                    taps = (tap_starts[phase], tap_starts[phase + 1], tap_starts[phase + phases])
                    if direct:
                        target, place, pitch = values, start, step_y * width
                    else:
                        target, place, pitch = lines, b * line, step_x * line
                    _sum_rows(
                        factors,
                        offsets,
                        taps,
                        tall[phase],
                        initial,
                        packed,
                        row_step,
                        target,
                        place,
                        pitch,
                        rows,
                        columns,
                        phases,
                        direct,
                        source_values,
                        ahead if phase == 0 else -1,
                        plan.row_step * plan.column_step,
                    )
                if direct:
                    continue
                if step_x == 1:
                    for row in range(rows):
                        copy_floats(lines, row * line, values, start + row * step_y * width, columns)
                else:
                    _join_rows(
                        lines,
                        step_x * line,
                        line,
                        values,
                        start,
                        step_y * width,
                        rows,
                        whole,
                        step_x,
                    )


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
    values, starts, width = grad_out.values, grad_out.starts, grad_out.width
    source_values, source_starts, source_size = source.values, source.starts, (source.height, source.width)
    offsets = plan.offsets
    count = plan.taps.size
    samples, tiles = len(starts) // plan.depth, plan.tiles[0] * plan.tiles[1]
    row_step = plan.row_step * plan.pitch
    size = packed_size(plan)
    sums_size = plan.targets * offsets.size * LANES
    packed, sums, lines = workspace[:size], workspace[size : size + sums_size], workspace[size + sums_size :]
    packed[:] = F(0)
    lines[:] = F(0)
    for chosen in range(first, last):
        sums[:] = F(0)
        for sample in range(samples):
            begin = (sample * plan.groups + chosen) * plan.depth * tiles
            for unit in range(begin, begin + plan.depth * tiles):
                image, group, corner = place_of(unit, plan)
                rows = min(plan.tile[0], plan.grid[0] - corner[0])
                columns = min(plan.tile[1], plan.grid[1] - corner[1])
                pack_planes(source_values, source_starts, source_size, image, group, packed, plan, corner)
                for target in range(plan.targets):
                    start = starts[image, group * plan.targets + target] + corner[0] * width + corner[1]
                    gradient, place, pitch = values, start, width
                    if columns % LANES:  # the last vector of a row needs zeros behind the row
                        gradient, place, pitch = lines, 0, -(-columns // LANES) * LANES
                        if plan.tiles[1] > 1:
                            lines[:] = F(0)
                        for row in range(rows):
                            copy_floats(values, start + row * width, lines, row * pitch, columns)
                    for tap in range(0, offsets.size, TAPS):
                        sum_products(
                            gradient,
                            place,
                            pitch,
                            rows,
                            columns,
                            packed,
                            0,
                            row_step,
                            offsets,
                            tap,
                            sums,
                            (target * offsets.size + tap) * LANES,
                        )
        for target in range(plan.targets):
            for tap in range(count):
                total = np.float64(0)
                for lane in range(LANES):
                    total += np.float64(sums[(target * offsets.size + tap) * LANES + lane])
                grad_weight[(chosen * plan.targets + target) * count + plan.taps[tap]] = total
