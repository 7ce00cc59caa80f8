"""The weights as a convolution's gradient by x reads them: tile by tile, what one product takes in a row."""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, backward_correlation
from dhhpc_kernels.cpu.microkernel import HEIGHT, LINE, ROWS
from dhhpc_kernels.cpu.panels import padded_depth, panels
from dhhpc_kernels.cpu.vector_moves import copy_rows, turn_height, turn_rows
from dhhpc_kernels.parallel import run_shares

F = np.float32


def turned_size(shape: Geometry, height: int) -> int:
    """Floats of turned weights: whole tiles of channels."""
    taps, targets = int(np.prod(shape.kernel)), shape.channels // shape.groups
    return shape.groups * turned_kernels(shape, height) * taps * panels(targets, height) * height


def turned_kernels(shape: Geometry, height: int) -> int:
    """Of a group in each tile: rounded up, with zeros, where the block of two packed factors takes STEPS."""
    kernels = shape.kernels // shape.groups
    return padded_depth(kernels) if height == HEIGHT else kernels


def turn_weights(shape: Geometry, weight: np.ndarray, turned: np.ndarray, height: int) -> None:
    """Reorder weight (K,C/groups,...) into tiles of `height` channels of C, which is ROWS or HEIGHT.

    Order: group, phase, tile, kernel, depth tap, the phase's tap, row of the tile.
    turned: `turned_size` floats.
    """
    sizes = shape.kernels // shape.groups, turned_kernels(shape, height), shape.channels // shape.groups
    arguments = weight.reshape(-1, copy=False), turned, *_order(shape, height), shape.groups, sizes, height
    run_shares(_turn, panels(sizes[2], height), 2 * weight.size, *arguments)


@functools.lru_cache(maxsize=1024)
def _order(shape: Geometry, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair of a tap and a depth tap that is turned, int64: its place among a channel's weights; where
    it goes in a group's first tile, from its first kernel; and how much farther from each next kernel."""
    correlation = backward_correlation(shape)
    depth_taps, taps = shape.kernel[0], int(np.prod(shape.kernel[1:]))
    padded = panels(correlation.target_channels, height) * height
    places, starts, steps = [], [], []
    begin = 0
    for phase in correlation.taps:
        pairs = [depth_tap * taps + tap for depth_tap in range(depth_taps) for tap, _, _ in phase]
        places += pairs
        starts += [begin + i * height for i in range(len(pairs))]
        steps += [len(pairs) * height] * len(pairs)
        begin += turned_kernels(shape, height) * len(pairs) * padded
    return np.array(places, np.int64), np.array(starts, np.int64), np.array(steps, np.int64)


@compile_kernel
def _turn(
    weights: np.ndarray,
    turned: np.ndarray,
    places: np.ndarray,
    starts: np.ndarray,
    steps: np.ndarray,
    groups: int,
    sizes: tuple[int, int, int],
    height: int,
    first: int,
    last: int,
) -> None:
    """Tiles first to last of each group's targets. sizes: of a group, its kernels, those of a tile, targets.

    So many tiles are filled at once as take whole cache lines of weights.
    """
    kernels, tile_kernels, targets = sizes
    taps = len(places)
    padded = -(-targets // height) * height
    at_once = -(-LINE // height)
    for g in range(groups):
        group = turned[g * tile_kernels * taps * padded :]
        for some in range(first, last, at_once):
            for kernel in range(tile_kernels):
                for tile in range(some, min(last, some + at_once)):
                    here = ((g * kernels + kernel) * targets + tile * height) * taps
                    inside = targets - tile * height if kernel < kernels else 0
                    number = tile * tile_kernels + kernel
                    if inside < height:
                        for k in range(taps):
                            there = starts[k] + number * steps[k]
                            for i in range(height):
                                group[there + i] = (
                                    weights[here + places[k] + i * taps] if i < inside else F(0)
                                )
                    elif height == HEIGHT:
                        turn_height(weights, here, taps, places, group, starts, steps, number, taps)
                    elif taps == 1:
                        copy_rows(weights, here, group, number * ROWS)
                    else:
                        turn_rows(weights, here, taps, places, group, starts, steps, number, taps)
