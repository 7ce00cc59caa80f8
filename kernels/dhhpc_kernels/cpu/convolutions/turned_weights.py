"""The weights as a convolution's gradient by x reads them: tile by tile, what one product takes in a row."""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, backward_correlation
from dhhpc_kernels.cpu.microkernel import LINE, ROWS
from dhhpc_kernels.cpu.vector_moves import copy_rows, turn_rows
from dhhpc_kernels.parallel import run_shares

F = np.float32


def turned_size(shape: Geometry) -> int:
    """Floats of turned weights: whole tiles of channels."""
    correlation = backward_correlation(shape)
    taps = int(np.prod(shape.kernel[1:]))
    return shape.groups * correlation.source_channels * taps * tiles(correlation.target_channels) * ROWS


def turn_weights(shape: Geometry, weight: np.ndarray, turned: np.ndarray) -> None:
    """Reorder weight (K,C/groups,...) into tiles of ROWS channels of C.

    Order: group, phase, tile, kernel, depth tap, the phase's tap, row of the tile.
    turned: `turned_size` floats.
    """
    correlation = backward_correlation(shape)
    sizes = (correlation.source_channels // shape.kernel[0], correlation.target_channels)
    arguments = weight.reshape(-1, copy=False), turned, *_order(shape), shape.groups, sizes
    run_shares(_turn, tiles(sizes[1]), 2 * weight.size, *arguments)


@functools.lru_cache(maxsize=1024)
def _order(shape: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair of a tap and a depth tap that is turned, int64: its place among a channel's weights; where
    it goes in a group's first tile, from its first kernel; and how much farther from each next kernel."""
    correlation = backward_correlation(shape)
    depth_taps, taps = shape.kernel[0], int(np.prod(shape.kernel[1:]))
    kernels = correlation.source_channels // depth_taps
    padded = tiles(correlation.target_channels) * ROWS
    places, starts, steps = [], [], []
    begin = 0
    for phase in correlation.taps:
        pairs = [depth_tap * taps + tap for depth_tap in range(depth_taps) for tap, _, _ in phase]
        places += pairs
        starts += [begin + i * ROWS for i in range(len(pairs))]
        steps += [len(pairs) * ROWS] * len(pairs)
        begin += kernels * len(pairs) * padded
    return np.array(places, np.int64), np.array(starts, np.int64), np.array(steps, np.int64)


@compile_kernel
def _turn(
    weights: np.ndarray,
    turned: np.ndarray,
    places: np.ndarray,
    starts: np.ndarray,
    steps: np.ndarray,
    groups: int,
    sizes: tuple[int, int],
    first: int,
    last: int,
) -> None:
    """Tiles first to last of each group's targets. sizes: source and target channels of a group.

    So many tiles are filled at once as take whole cache lines of weights.
    """
    channels, targets = sizes
    taps = len(places)
    padded = -(-targets // ROWS) * ROWS
    for g in range(groups):
        group = turned[g * channels * taps * padded :]
        for some in range(first, last, LINE // ROWS):
            for channel in range(channels):
                for tile in range(some, min(last, some + LINE // ROWS)):
                    here = ((g * channels + channel) * targets + tile * ROWS) * taps
                    inside, number = targets - tile * ROWS, tile * channels + channel
                    if inside >= ROWS and taps == 1:
                        copy_rows(weights, here, group, number * ROWS)
                    elif inside >= ROWS:
                        turn_rows(weights, here, taps, places, group, starts, steps, number, taps)
                    else:
                        for k in range(taps):
                            there = starts[k] + number * steps[k]
                            for i in range(ROWS):
                                group[there + i] = (
                                    weights[here + places[k] + i * taps] if i < inside else F(0)
                                )
