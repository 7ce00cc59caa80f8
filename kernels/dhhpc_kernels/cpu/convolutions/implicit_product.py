"""Convolution as a matrix product whose second factor is never built whole (an implicit GEMM).

The rows of the product are target channels and its columns pixels of the whole batch, or for the gradient
by the weights pairs of a source channel and a tap. A chunk of columns, a piece of the common dimension at a
time, is gathered from the source planes into panels for the inner loop, which reads the rows where they lie.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.blocked_product import DEPTH, multiply_block, tiles
from dhhpc_kernels.cpu.convolutions.geometry import Correlation, Planes
from dhhpc_kernels.cpu.convolutions.pixels import Plan, gather, scatter
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, LINE, ROWS, VECTORS
from dhhpc_kernels.cpu.vector_moves import transpose
from dhhpc_kernels.turns import take_turn

F = np.float32

_CHUNK_FLOATS = 112 * 1024  # of a chunk's panels and sums, to stay in the second-level cache
_MOST_COLUMNS = 384 // COLUMNS  # panels of a chunk
_SHORT_BAND = 16  # rows
_LINE_PITCH = DEPTH + LINE  # of gathered lines


def _kept_rows(rows: int, depth: int) -> int:
    """Of so many rows, those whose sums are kept at once."""
    return min(rows, _SHORT_BAND) if depth <= DEPTH else rows


def _chunk_columns(rows: int, depth: int) -> int:
    """Columns of a chunk beside so many rows, for a product of a depth."""
    floats = (_kept_rows(rows, depth) + min(depth, DEPTH)) * COLUMNS
    return max(1, min(_MOST_COLUMNS, _CHUNK_FLOATS // max(1, floats))) * COLUMNS


def make_plan(correlation: Correlation, turned: bool) -> Plan:
    """Lay out a correlation whose weights are turned or as they are."""
    weight_step = ROWS if turned else 1
    taps = [tap for phase in correlation.taps for tap in phase]
    depth = correlation.source_channels * max(len(phase) for phase in correlation.taps)
    return Plan(
        correlation.groups,
        correlation.source_channels,
        correlation.target_channels,
        *correlation.grid,
        correlation.source_step,
        correlation.target_step,
        np.array(correlation.target_starts, np.int64),
        np.cumsum([0] + [len(phase) for phase in correlation.taps]).astype(np.int64),
        np.array([row for _, row, _ in taps], np.int64),
        np.array([column for _, _, column in taps], np.int64),
        turned,
        weight_step,
        np.arange(DEPTH, dtype=np.int64) * weight_step,
        np.arange(DEPTH, dtype=np.int64),
        np.arange(DEPTH, dtype=np.int64) * COLUMNS,
        depth,
        _chunk_columns(correlation.target_channels, depth),
    )


def correlate_workspace(plan: Plan, rows: int) -> int:
    """Floats that one thread of `correlate` needs for chunks of so many rows."""
    panels = plan.chunk // COLUMNS * (DEPTH * COLUMNS + LINE)
    kept = tiles(_kept_rows(rows, plan.depth)) * ROWS
    return panels + (kept + 1) * plan.chunk + LANES + ROWS * DEPTH


def weights_workspace(chunk: int, rows: int) -> int:
    """Floats that one thread of `correlate_weights` needs."""
    return (DEPTH + tiles(rows) * ROWS) * chunk + ROWS * DEPTH + COLUMNS * _LINE_PITCH


@compile_kernel
def correlate(
    source: Planes,
    weights: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    plan: Plan,
    part_rows: int,
    turns: np.ndarray,
    units: int,
) -> None:
    """Units of out, in turn with other threads: chunks of grid points, and of each some target channels.

    weights: flat, those of a convolution forward or `turn_weights`'s.
    bias: one value a target channel, or empty. workspace: `correlate_workspace` of those channels.
    """
    chunk = plan.chunk
    grid = plan.grid_rows * plan.grid_columns
    pixels = len(source.starts) * grid
    targets = plan.target_channels
    parts = -(-targets // part_rows)
    weight_rows = -(-targets // ROWS) * ROWS if plan.turned else targets
    edge, rest = workspace[: ROWS * DEPTH], workspace[ROWS * DEPTH :]
    line, rest = rest[: chunk + LANES], rest[chunk + LANES :]
    panels = chunk // COLUMNS * (DEPTH * COLUMNS + LINE)
    packed, sums = rest[:panels], rest[panels:]
    unit = take_turn(turns)
    while unit < units:
        start, part = unit // parts * chunk, unit % parts
        begin, end = part * part_rows, min(targets, (part + 1) * part_rows)
        whole_end = min(weight_rows, (part + 1) * part_rows)
        count = min(chunk, pixels - start)
        columns = -(-count // COLUMNS)
        image, pixel = divmod(start, grid)
        row, column = divmod(pixel, plan.grid_columns)
        for g in range(plan.groups):
            for phase in range(len(plan.tap_starts) - 1):
                first_tap = plan.tap_starts[phase]
                taps = plan.tap_starts[phase + 1] - first_tap
                depth = plan.source_channels * taps
                place = (g * len(plan.tap_rows) + first_tap) * plan.source_channels * weight_rows
                corner = (plan.target_starts[phase, 0], plan.target_starts[phase, 1])
                # With one piece a few rows' sums at a time, which stay in the first-level cache until stored.
                band = _SHORT_BAND if depth <= DEPTH else end - begin
                for piece in range(0, depth, DEPTH):
                    size = min(DEPTH, depth - piece)
                    panel_pitch = size * COLUMNS + LINE
                    gather(
                        source,
                        g * plan.source_channels,
                        plan,
                        phase,
                        piece,
                        size,
                        start,
                        count,
                        line,
                        0,
                        packed,
                    )
                    for target in range(begin, end, band):
                        multiply_block(
                            weights,
                            place + target * depth + piece * plan.weight_step,
                            ROWS * depth,
                            1 if plan.turned else depth,
                            plan.weight_steps,
                            size,
                            min(band, whole_end - target),
                            packed,
                            plan.panel_steps,
                            0,
                            panel_pitch,
                            columns,
                            sums,
                            chunk,
                            piece > 0,
                            edge,
                            plan.counting,
                        )
                        if piece + size == depth:
                            scatter(
                                sums,
                                bias,
                                out,
                                g * targets + target,
                                min(band, end - target),
                                plan,
                                corner,
                                image,
                                row,
                                column,
                                count,
                            )
                if depth == 0:  # a stride beyond the kernel: no tap reaches this phase
                    sums[:] = F(0)
                    for target in range(begin, end, _SHORT_BAND):
                        scatter(
                            sums,
                            bias,
                            out,
                            g * targets + target,
                            min(_SHORT_BAND, end - target),
                            plan,
                            corner,
                            image,
                            row,
                            column,
                            count,
                        )
        unit = take_turn(turns)


@compile_kernel
def correlate_weights(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first_row: int,
    last_row: int,
    first_column: int,
    last_column: int,
) -> None:
    """Rows (kernels of a group) and columns (source channels and taps) of grad_weight (groups, K, C*taps).

    The plan is the forward correlation's. The pixels of all images are summed in order, whatever the rows and
    columns. workspace: `weights_workspace` of the chunk and rows.
    """
    targets = plan.target_channels
    chunk = plan.chunk
    grid = plan.grid_rows * plan.grid_columns
    pixels = len(source.starts) * grid
    rows = last_row - first_row
    edge, rest = workspace[: ROWS * DEPTH], workspace[ROWS * DEPTH :]
    lines, rest = rest[: COLUMNS * _LINE_PITCH], rest[COLUMNS * _LINE_PITCH :]
    packed, sums = rest[: DEPTH * chunk], rest[DEPTH * chunk :]
    steps = np.empty(DEPTH, np.int64)
    empty = workspace[:0]
    for g in range(plan.groups):
        plane = grad_out.starts[0, 1] - grad_out.starts[0, 0] if grad_out.starts.shape[1] > 1 else 0
        for start in range(first_column, last_column, chunk):
            count = min(chunk, last_column - start)
            columns = -(-count // COLUMNS)
            for piece in range(0, pixels, DEPTH):
                size = min(DEPTH, pixels - piece)
                deep = -(-size // LANES) * LANES
                for k in range(size):
                    n, here = divmod(piece + k, grid)
                    steps[k] = grad_out.starts[n, g * targets] + here
                for panel in range(columns):
                    both = start + panel * COLUMNS
                    pairs = min(COLUMNS, last_column - both)
                    gather(
                        source,
                        g * plan.source_channels,
                        plan,
                        0,
                        both,
                        pairs,
                        piece,
                        size,
                        lines,
                        _LINE_PITCH,
                        empty,
                    )
                    lines[pairs * _LINE_PITCH :] = F(0)
                    for k in range(0, size, LANES):
                        for v in range(VECTORS):
                            transpose(
                                lines,
                                v * LANES * _LINE_PITCH + k,
                                _LINE_PITCH,
                                packed,
                                (panel * deep + k) * COLUMNS + v * LANES,
                                COLUMNS,
                            )
                multiply_block(
                    grad_out.values,
                    first_row * plane,
                    ROWS * plane,
                    plane,
                    steps,
                    size,
                    rows,
                    packed,
                    plan.panel_steps,
                    0,
                    deep * COLUMNS,
                    columns,
                    sums,
                    chunk,
                    piece > 0,
                    edge,
                    plan.counting,
                )
            for k in range(rows):
                grad_weight[g, first_row + k, start : start + count] = sums[k * chunk : k * chunk + count]
