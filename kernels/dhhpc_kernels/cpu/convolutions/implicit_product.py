"""Convolution as a matrix product whose second factor is never built whole (an implicit GEMM).

The rows of the product are target channels and its columns pixels of the whole batch. A chunk of columns, of
as many channels as the second-level cache holds, is gathered from the source planes into panels, and each
block of rows goes over all of these: so its sums are in registers or the first-level cache until they are
stored, and the packed weights are read once a chunk, one after the other.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import Correlation, Planes
from dhhpc_kernels.cpu.convolutions.pixel_runs import find_runs, gather_runs, run_tables
from dhhpc_kernels.cpu.convolutions.pixels import Plan, scatter
from dhhpc_kernels.cpu.microkernel import HEIGHT, LANES, LINE, STEPS, WIDTH, multiply_listed
from dhhpc_kernels.cpu.panels import padded_depth, panels
from dhhpc_kernels.turns import take_turn

F = np.float32

_CHUNK_FLOATS = 96 * 1024  # of a chunk's panels and sums, to stay in the second-level cache
_LEAST_PANELS, _MOST_PANELS = 2, 24  # of a chunk


def make_plan(correlation: Correlation, tile_depths: list[int]) -> Plan:
    """Lay out a correlation. tile_depths: lines of packed weights a tile, for each phase that has taps."""
    taps = list(dict.fromkeys((row, column) for phase in correlation.taps for _, row, column in phase))
    reached = [
        (start, met) for start, met in zip(correlation.target_starts, correlation.taps, strict=True) if met
    ]
    fitting = _CHUNK_FLOATS // (_LEAST_PANELS * WIDTH * len(taps)) // STEPS * STEPS
    piece = min(max(STEPS, fitting), correlation.source_channels)
    phases = np.full(correlation.target_step, -1)
    phase_lines = padded_depth(piece * max(len(met) for _, met in reached))
    lines = np.zeros((len(reached), phase_lines), np.int64)
    counting = np.arange(phase_lines)
    panel_lines = piece * len(taps)
    for phase, (start, met) in enumerate(reached):
        phases[start] = phase
        own = np.array([taps.index((row, column)) for _, row, column in met])
        lines[phase] = counting // len(met) * len(taps) + own[counting % len(met)]
        # The last ones may be lines of zeros behind the channels', for whole STEPS.
        panel_lines = max(panel_lines, int(lines[phase, padded_depth(piece * len(met)) - 1]) + 1)
    plan = Plan(
        correlation.groups,
        correlation.source_channels,
        correlation.target_channels,
        *correlation.grid,
        correlation.source_step,
        correlation.target_step,
        phases,
        np.array([len(met) for _, met in reached], np.int64),
        np.array([row for row, _ in taps], np.int64),
        np.array([column for _, column in taps], np.int64),
        lines.reshape(-1) * WIDTH,
        phase_lines,
        piece,
        panel_lines * WIDTH + LINE,
        np.array(tile_depths, np.int64),
        panels(correlation.target_channels, HEIGHT) * HEIGHT,
        WIDTH,
    )
    fitting = _CHUNK_FLOATS // (plan.panel + len(reached) * kept_rows(plan) * WIDTH)
    return plan._replace(chunk=max(_LEAST_PANELS, min(_MOST_PANELS, fitting)) * WIDTH)


def kept_rows(plan: Plan) -> int:
    """Of a chunk's rows, those whose sums are kept at once: with several pieces all."""
    return HEIGHT if plan.piece == plan.source_channels else plan.rows


def correlate_workspace(plan: Plan) -> int:
    """Floats that one thread of `correlate` needs."""
    kept = len(plan.phase_taps) * kept_rows(plan)
    return plan.chunk // WIDTH * plan.panel + (kept + 1) * plan.chunk + LANES + LINE


@compile_kernel
def correlate(
    source: Planes,
    packed: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    plan: Plan,
    kept: int,
    turns: np.ndarray,
    units: int,
) -> None:
    """Units of out, in turn with other threads: chunks of grid points, and of each some target channels.

    packed: weights in tiles of HEIGHT target channels, in the order of group, phase, tile, channel and tap.
    bias: one value a target channel, or empty. workspace: `correlate_workspace`. kept: `kept_rows`.
    """
    chunk, panel = plan.chunk, plan.panel
    grid = plan.grid_rows * plan.grid_columns
    pixels = len(source.starts) * grid
    channels, targets = plan.source_channels, plan.target_channels
    taps, phases = len(plan.tap_rows), len(plan.phase_taps)
    parts = -(-targets // plan.rows)
    blocks = -(-targets // HEIGHT)
    # Arrays are taken out of their tuples once: in an inner loop each access would count a reference.
    phase_taps, tile_depths, lines = plan.phase_taps, plan.tile_depths, plan.lines
    aligned = workspace[-(workspace.ctypes.data // 4) % LINE :]
    size = chunk // WIDTH * panel
    gathered, sums = aligned[:size], aligned[size:]
    phase_pitch = kept * chunk
    sums[:chunk] = F(0)
    tables = run_tables(plan, chunk)
    unit = take_turn(turns)
    while unit < units:
        start, part = unit // parts * chunk, unit % parts
        first_block = part * plan.rows // HEIGHT
        last_block = min(blocks, first_block + plan.rows // HEIGHT)
        count = min(chunk, pixels - start)
        windows = -(-count // WIDTH)
        image, pixel = divmod(start, grid)
        row, column = divmod(pixel, plan.grid_columns)
        runs = find_runs(source, plan, start, count, WIDTH, panel, tables)
        group_weights = 0
        for g in range(plan.groups):
            for first in range(0, channels, plan.piece):
                some = min(plan.piece, channels - first)
                size = some * taps
                gather_runs(source, g * channels + first, plan, 0, size, runs, gathered, WIDTH)
                for place in range(0, windows * panel, panel):
                    gathered[place + size * WIDTH : place + panel] = F(0)
                for block in range(first_block, last_block):
                    kept_row = 0 if kept == HEIGHT else (block - first_block) * HEIGHT
                    channel = g * targets + block * HEIGHT
                    rows = min(HEIGHT, targets - block * HEIGHT)
                    weights = group_weights
                    for phase in range(phases):
                        own, depth = phase_taps[phase], tile_depths[phase]
                        for w in range(windows):
                            multiply_listed(
                                packed,
                                weights + (block * depth + first * own) * HEIGHT,
                                gathered,
                                w * panel,
                                lines,
                                phase * plan.phase_lines,
                                -(-some * own // STEPS) * STEPS,
                                sums,
                                chunk + phase * phase_pitch + kept_row * chunk + w * WIDTH,
                                chunk,
                                first > 0,
                            )
                        weights += blocks * depth * HEIGHT
                    if first + some == channels:
                        scatter(
                            sums,
                            phase_pitch,
                            bias,
                            out,
                            channel,
                            rows,
                            kept_row,
                            plan,
                            image,
                            row,
                            column,
                            count,
                        )
            for phase in range(phases):
                group_weights += blocks * tile_depths[phase] * HEIGHT
        unit = take_turn(turns)
