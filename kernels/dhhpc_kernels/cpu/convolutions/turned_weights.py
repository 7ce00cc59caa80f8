"""The weights as a convolution's gradient by x reads them: tile by tile, what one product takes in a row."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, backward_correlation
from dhhpc_kernels.cpu.microkernel import ROWS
from dhhpc_kernels.cpu.vector_moves import copy_rows
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
    starts = np.cumsum([0] + [len(phase) for phase in correlation.taps])
    indices = np.array([tap[0] for phase in correlation.taps for tap in phase], np.int64)
    arguments = (weight.reshape(-1, copy=False), turned, starts, indices, shape.kernel[0], shape.groups)
    sizes = (correlation.source_channels // shape.kernel[0], correlation.target_channels)
    run_shares(_turn, tiles(sizes[1]), 2 * weight.size, *arguments, sizes)


@compile_kernel
def _turn(
    weights: np.ndarray,
    turned: np.ndarray,
    tap_starts: np.ndarray,
    indices: np.ndarray,
    depth_taps: int,
    groups: int,
    sizes: tuple[int, int],
    first: int,
    last: int,
) -> None:
    """Tiles first to last of each group's targets. sizes: source and target channels of a group."""
    channels, targets = sizes
    taps = len(indices)
    all_taps = depth_taps * taps
    padded = -(-targets // ROWS) * ROWS
    for g in range(groups):
        for phase in range(len(tap_starts) - 1):
            first_tap, last_tap = tap_starts[phase], tap_starts[phase + 1]
            depth = channels * depth_taps * (last_tap - first_tap)
            for tile in range(first, last):
                place = (g * taps + first_tap) * channels * depth_taps * padded + tile * ROWS * depth
                inside = min(ROWS, targets - tile * ROWS)
                for channel in range(channels):
                    here = ((g * channels + channel) * targets + tile * ROWS) * all_taps
                    if inside == ROWS and all_taps == 1:
                        copy_rows(weights, here, turned, place)
                        place += ROWS
                        continue
                    for depth_tap in range(depth_taps):
                        for tap in range(first_tap, last_tap):
                            one = here + depth_tap * taps + indices[tap]
                            if inside == ROWS:
                                for i in range(ROWS):
                                    turned[place + i] = weights[one + i * all_taps]
                            else:
                                for i in range(ROWS):
                                    turned[place + i] = weights[one + i * all_taps] if i < inside else F(0)
                            place += ROWS
