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
from dhhpc_kernels.cpu.convolutions.strided_pixels import find_pixels, gather_found, table_size
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, LINE, ROWS, VECTORS
from dhhpc_kernels.cpu.vector_moves import transpose
from dhhpc_kernels.turns import take_turn

F = np.float32

_CHUNK_FLOATS = 112 * 1024  # of a chunk's panels and sums, to stay in the second-level cache
_MOST_COLUMNS = 384 // COLUMNS  # panels of a chunk
_SHORT_BAND = 16  # rows
_MOST_ROWS = 512  # of a chunk's sums, of all phases together
_TABLED_COLUMNS = 4 * LANES  # longer rows are gathered as fast, a vector at a time
_LINE_PITCH = DEPTH + LINE  # of gathered lines


def kept_rows(plan: Plan) -> int:
    """Of a chunk's rows, those whose sums are kept at once: few with one piece, which then stay in the
    first-level cache until they are stored."""
    one_piece = plan.piece == plan.source_channels * len(plan.tap_rows)
    return tiles(min(plan.rows, _SHORT_BAND) if one_piece else plan.rows) * ROWS


def make_plan(correlation: Correlation, turned: bool) -> Plan:
    """Lay out a correlation whose weights are turned or as they are."""
    weight_step = ROWS if turned else 1
    taps = list(dict.fromkeys((row, column) for phase in correlation.taps for _, row, column in phase))
    channels = min(max(1, DEPTH // len(taps)), correlation.source_channels)
    piece = channels * len(taps)
    reached = [
        (start, met) for start, met in zip(correlation.target_starts, correlation.taps, strict=True) if met
    ]
    phases = np.full(correlation.target_step, -1)
    panel_steps = np.zeros((len(reached), piece), np.int64)
    for phase, (start, met) in enumerate(reached):
        phases[start] = phase
        lines = [taps.index((row, column)) for _, row, column in met]
        pairs = np.add.outer(np.arange(channels) * len(taps), np.array(lines, np.int64)).reshape(-1)
        panel_steps[phase, : pairs.size] = pairs * COLUMNS
    counting = np.arange(max(DEPTH, piece), dtype=np.int64)
    plan = Plan(
        correlation.groups,
        correlation.source_channels,
        correlation.target_channels,
        *correlation.grid,
        correlation.source_step,
        correlation.source_step[1] > 1 and correlation.grid[1] <= _TABLED_COLUMNS,
        correlation.target_step,
        phases,
        np.cumsum([0] + [len(met) for _, met in reached]).astype(np.int64),
        np.array([row for row, _ in taps], np.int64),
        np.array([column for _, column in taps], np.int64),
        turned,
        weight_step,
        counting * weight_step,
        counting,
        counting * COLUMNS,
        panel_steps.reshape(-1),
        piece,
        min(correlation.target_channels, max(1, _MOST_ROWS // len(reached) // ROWS) * ROWS),
        COLUMNS,
    )
    fitting = _CHUNK_FLOATS // ((len(reached) * kept_rows(plan) + piece) * COLUMNS)
    return plan._replace(chunk=max(1, min(_MOST_COLUMNS, fitting)) * COLUMNS)


def correlate_workspace(plan: Plan) -> int:
    """Floats that one thread of `correlate` needs."""
    panels = plan.chunk // COLUMNS * (plan.piece * COLUMNS + LINE)
    kept = (len(plan.weight_starts) - 1) * kept_rows(plan)
    table = table_size(len(plan.tap_rows), plan.chunk) if plan.tabled else 0
    return panels + (kept + 2) * plan.chunk + 2 * LANES + ROWS * len(plan.counting) + table


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
    kept: int,
    turns: np.ndarray,
    units: int,
) -> None:
    """Units of out, in turn with other threads: chunks of grid points, and of each some target channels.

    weights: flat, those of a convolution forward or `turn_weights`'s.
    bias: one value a target channel, or empty. workspace: `correlate_workspace`. kept: `kept_rows`.
    """
    chunk, piece = plan.chunk, plan.piece
    grid = plan.grid_rows * plan.grid_columns
    pixels = len(source.starts) * grid
    channels, targets = plan.source_channels, plan.target_channels
    taps, phases = len(plan.tap_rows), len(plan.weight_starts) - 1
    pairs = channels * taps
    parts = -(-targets // plan.rows)
    weight_rows = -(-targets // ROWS) * ROWS if plan.turned else targets
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    weight_starts, weight_steps, panel_steps = plan.weight_starts, plan.weight_steps, plan.panel_steps
    counting = plan.counting
    edge, rest = workspace[: ROWS * len(counting)], workspace[ROWS * len(counting) :]
    line, rest = rest[: chunk + LANES], rest[chunk + LANES :]
    panels = chunk // COLUMNS * (piece * COLUMNS + LINE)
    packed, sums = rest[:panels], rest[panels:]
    most, phase_pitch = min(plan.rows, kept), kept * chunk
    sums[:chunk] = F(0)
    table = rest[len(rest) - (2 * taps * chunk if plan.tabled else 0) :].view(np.int32)
    unit = take_turn(turns)
    while unit < units:
        start, part = unit // parts * chunk, unit % parts
        begin, end = part * plan.rows, min(targets, (part + 1) * plan.rows)
        whole_end = min(weight_rows, (part + 1) * plan.rows)
        count = min(chunk, pixels - start)
        columns = -(-count // COLUMNS)
        image, pixel = divmod(start, grid)
        row, column = divmod(pixel, plan.grid_columns)
        found = plan.tabled and find_pixels(source, plan, start, count, table)
        for g in range(plan.groups):
            for first in range(0, pairs, piece):
                size = min(piece, pairs - first)
                if found:
                    gather_found(
                        source,
                        g * channels,
                        plan,
                        first,
                        size,
                        start,
                        count,
                        table,
                        packed,
                        COLUMNS,
                        size * COLUMNS + LINE,
                    )
                else:
                    gather(source, g * channels, plan, first, size, start, count, line, 0, packed)
                for target in range(begin, end, most):
                    for phase in range(phases):
                        own_taps = weight_starts[phase + 1] - weight_starts[phase]
                        depth = channels * own_taps
                        before = (g * weight_starts[-1] + weight_starts[phase]) * channels * weight_rows
                        multiply_block(
                            weights,
                            before + target * depth + first // taps * own_taps * plan.weight_step,
                            ROWS * depth,
                            1 if plan.turned else depth,
                            weight_steps,
                            size // taps * own_taps,
                            min(most, whole_end - target),
                            packed,
                            panel_steps,
                            phase * piece,
                            size * COLUMNS + LINE,
                            columns,
                            sums[chunk + phase * phase_pitch :],
                            chunk,
                            first > 0,
                            edge,
                            counting,
                        )
                    if first + size == pairs:
                        scatter(
                            sums,
                            phase_pitch,
                            bias,
                            out,
                            g * targets + target,
                            min(most, end - target),
                            plan,
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
                    plan.line_steps,
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
