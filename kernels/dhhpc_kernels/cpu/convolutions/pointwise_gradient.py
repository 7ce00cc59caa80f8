"""The gradient by the weights of a convolution of one pixel, as sums along the pixels.

Sums along lines need the pixels in no other order, as a matrix product would. Where an image falls into runs
of whole vectors, they are read where they lie: all of them at stride 1, at others those of grad_out. Else the
pixels of all images are copied into lines, one behind the other.
"""

import functools
from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Pair,
    Planes,
    forward_sources,
    out_planes,
    planes,
)
from dhhpc_kernels.cpu.line_products import add_products
from dhhpc_kernels.cpu.microkernel import LANES, ROWS, VECTORS
from dhhpc_kernels.cpu.vector_moves import copy_lanes, copy_second
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads

F = np.float32

_RUN = 512  # pixels summed at once, so that a tile's lines stay in the first-level cache
_RUNS_OF_AN_IMAGE = 256, 1024  # at least and at most so many pixels, with the same end
_BAND_FLOATS = 48 * 1024  # of the lines of x that stay in the second-level cache


class Plan(NamedTuple):
    """How the threads walk over the arrays."""

    groups: int
    kernels: int  # of a group
    channels: int
    step: Pair
    run: int  # pixels summed at once
    grad_out_in_place: bool
    x_in_place: bool
    band: int  # channels of x gone through at once


def fits(shape: Geometry) -> bool:
    """Whether it is a convolution of this kind, has a block's channels at least, and sums are the fastest."""
    single = shape.kernel == (1, 1, 1) and shape.padding == (0, 0, 0)
    block = shape.kernels >= ROWS * shape.groups and shape.channels >= VECTORS * shape.groups
    return single and block and (shape.stride[1:] != (1, 1) or _plan(shape).x_in_place)


@functools.lru_cache(maxsize=1024)
def _plan(shape: Geometry) -> Plan:
    _, rows, columns = shape.out_size
    pixels = rows * columns
    least, most = _RUNS_OF_AN_IMAGE
    runs = [run for run in range(least, most + 1, LANES) if pixels % run == 0]
    run, step = max(runs, default=_RUN), shape.stride[1:]
    kernels, channels = shape.kernels // shape.groups, shape.channels // shape.groups
    band = _BAND_FLOATS // run // VECTORS * VECTORS
    alike = step == (1, 1) and shape.size[1:] == shape.out_size[1:]
    return Plan(shape.groups, kernels, channels, step, run, bool(runs), bool(runs) and alike, band)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _part_size(plan: Plan, rows: int, columns: int) -> int:
    """Workspace floats of a thread for so many kernels and channels, rounded up to blocks."""
    rows, columns = _blocks(rows, ROWS) * ROWS, _blocks(columns, VECTORS) * VECTORS
    lines = 0 if plan.x_in_place else min(columns, plan.band)
    return rows * columns + (ROWS + lines) * plan.run + 2 * LANES


def _pieces(plan: Plan, workers: int) -> list[tuple[int, int, int, int]]:
    """For each thread the first and last kernel and channel of a group, whole blocks of both."""
    rows, columns = plan.kernels, plan.channels
    tiles, strips = _blocks(rows, ROWS), _blocks(columns, VECTORS)
    parts = min(
        (parts for parts in range(1, workers + 1) if workers % parts == 0),
        key=lambda parts: _blocks(tiles, parts) * _blocks(strips, workers // parts),
    )
    return [
        (top * ROWS, min(bottom * ROWS, rows), left * VECTORS, min(right * VECTORS, columns))
        for top, bottom in shares(tiles, parts)
        for left, right in shares(strips, workers // parts)
    ]


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the function needs as workspace, for the number of threads set now."""
    plan = _plan(shape)
    return sum(_part_size(plan, b - a, d - c) for a, b, c, d in _pieces(plan, threads()))


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight.

    The threads share out its elements, not the samples, so the sums are the same for any number of threads.
    """
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    plan = _plan(shape)
    grouped = grad_weight.reshape(plan.groups, plan.kernels, plan.channels, copy=False)
    workers = threads()
    pieces = _pieces(plan, workers)
    while workers > 1 and workspace.size < sum(_part_size(plan, b - a, d - c) for a, b, c, d in pieces):
        workers -= 1
        pieces = _pieces(plan, workers)
    calls, place = [], 0
    for piece in pieces:
        size = _part_size(plan, piece[1] - piece[0], piece[3] - piece[2])
        calls.append((source, target, grouped, workspace[place : place + size], plan, *piece))
        place += size
    check_workspace(workspace, place)
    run_parallel(_sum_pixels, calls)


@compile_part
def _copy_pixels(
    source: Planes,
    channel: int,
    size: Pair,
    step: Pair,
    first: int,
    count: int,
    lines: np.ndarray,
    place: int,
) -> None:
    """Copy `count` pixels at a step to lines[place], then zeros to the end of a vector.

    Up to LANES floats more are overwritten. The pixels are counted from `first` over all images, each with
    `size` rows and columns of them.
    """
    values, starts, width = source.values, source.starts, source.width
    rows, columns = size
    step_y, step_x = step
    end = place + count
    image, pixel = divmod(first, rows * columns)
    row, column = divmod(pixel, columns)
    while place < end:
        take = min(columns - column, end - place)
        begin = starts[image, channel] + row * step_y * width + column * step_x
        whole = begin + step_x * (take + LANES) <= values.size
        if step_x == 1 and whole:
            for i in range(0, take, LANES):
                copy_lanes(values, begin + i, lines, place + i)
        elif step_x == 2 and whole:
            for i in range(0, take, LANES):
                copy_second(values, begin + 2 * i, lines, place + i)
        else:
            for i in range(take):
                lines[place + i] = values[begin + i * step_x]
        place += take
        column = 0
        row += 1
        if row == rows:
            row = 0
            image += 1
    for i in range(end, end + -count % LANES):
        lines[i] = F(0)


@compile_kernel
def _sum_pixels(
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
    """Rows (kernels of a group) and columns (its channels) of grad_weight (groups, K, C).

    The last tile of rows lies over the one before it where it has fewer than ROWS; so do columns.
    workspace: `_part_size`.
    """
    tiles, strips = -(-(last_row - first_row) // ROWS), -(-(last_column - first_column) // VECTORS)
    columns = strips * VECTORS
    sums, rest = workspace[: tiles * ROWS * columns], workspace[tiles * ROWS * columns :]
    run = plan.run
    copies, lines = rest[: ROWS * run + LANES], rest[ROWS * run + LANES :]
    offsets = np.arange(columns) * run
    lines = source.values if plan.x_in_place else lines
    pixels, kernel_pitch = grad_out.height * grad_out.width, grad_out.starts[0, 1] - grad_out.starts[0, 0]
    size, plane = (grad_out.height, grad_out.width), (1, pixels)
    for g in range(plan.groups):
        sums[:] = F(0)
        kernel, channel = g * plan.kernels, g * plan.channels
        last_kernel, last_channel = kernel + plan.kernels - ROWS, channel + plan.channels - VECTORS
        for band in range(0, strips, plan.band // VECTORS):
            band_end = min(strips, band + plan.band // VECTORS)
            for first in range(0, len(source.starts) * pixels, run):
                count = min(run, len(source.starts) * pixels - first)
                for strip in range(band, band_end):
                    here = min(channel + first_column + strip * VECTORS, last_channel)
                    for v in range(VECTORS):
                        line = (strip - band) * VECTORS + v
                        if plan.x_in_place:
                            offsets[line] = source.starts[first // pixels, here + v] + first % pixels
                        else:
                            _copy_pixels(source, here + v, size, plan.step, first, count, lines, line * run)
                for tile in range(tiles):
                    row = min(kernel + first_row + tile * ROWS, last_kernel)
                    if plan.grad_out_in_place:
                        place = grad_out.starts[first // pixels, row] + first % pixels
                        rows, pitch = grad_out.values, kernel_pitch
                    else:
                        rows, place, pitch = copies, 0, run
                        for i in range(ROWS):
                            _copy_pixels(grad_out, row + i, plane, (1, 1), first, count, copies, i * run)
                    for strip in range(band, band_end):
                        target = tile * ROWS * columns + strip * VECTORS
                        column = (strip - band) * VECTORS
                        add_products(rows, place, pitch, lines, offsets, column, count, sums, target, columns)
        for k in range(first_row, last_row):
            tile = (k - first_row) // ROWS
            i = kernel + k - min(kernel + first_row + tile * ROWS, last_kernel)
            for c in range(first_column, last_column):
                strip = (c - first_column) // VECTORS
                v = channel + c - min(channel + first_column + strip * VECTORS, last_channel)
                grad_weight[g, k, c] = sums[(tile * ROWS + i) * columns + strip * VECTORS + v]
