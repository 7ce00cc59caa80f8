"""Which algorithm convolves which shape: a small model of the cycles that each takes."""

import functools
import math
import os

from dhhpc_kernels.cpu.geometry import Geometry, Pair
from dhhpc_kernels.cpu.microkernel import LANES

DIRECT = 0
TILES = (2, 4)  # of Winograd's algorithm

# Measured with vectors of 8 lanes, in cycles: to transform a tile of one source channel and one of a target
# channel, and the part of the peak that the inner loops reach.
_SOURCE_CYCLES = {2: 18.0, 4: 42.0}
_TARGET_CYCLES = {2: 10.0, 4: 22.0}
_PRODUCTS_EFFICIENCY, _DIRECT_EFFICIENCY = 0.75, 0.65
# Transformed weights beyond this no longer stay in the last-level cache while the tiles pass by.
_MOST_WEIGHT_BYTES = 24 * 2**20


def _setting() -> str:
    """auto, direct or winograd from DHHPC_CONVOLUTION. Raises ValueError for another value."""
    value = os.environ.get("DHHPC_CONVOLUTION", "auto")
    if value not in ("auto", "direct", "winograd"):
        raise ValueError(f"DHHPC_CONVOLUTION is {value!r}; set it to auto, direct or winograd")
    return value


def _suited(shape: Geometry) -> bool:
    return (
        shape.kernel[1:] == (3, 3)
        and (shape.stride[1:], shape.dilation[1:], shape.groups) == ((1, 1), (1, 1), 1)
        and max(shape.padding[1:]) <= 2
    )


def choose_forward(shape: Geometry) -> int:
    """DIRECT, or the size of Winograd's tiles, for the output and the gradient by the weights.

    Winograd is for kernels of 3x3, with any depth, at stride 1; DHHPC_CONVOLUTION=direct or winograd
    overrides the model where there is a choice. The choice depends on the shape of one sample alone, so that
    results do not depend on the number of threads or of samples in a batch.
    """
    channels = shape.channels * shape.kernel[0]
    return _cheapest(shape.kernels, channels, shape.out_size[1:], _setting()) if _suited(shape) else DIRECT


def choose_backward(shape: Geometry) -> int:
    """The same for the gradient by x."""
    channels = shape.kernels * shape.kernel[0]
    return _cheapest(shape.channels, channels, shape.size[1:], _setting()) if _suited(shape) else DIRECT


@functools.lru_cache(maxsize=1024)
def _cheapest(targets: int, sources: int, out_size: Pair, setting: str) -> int:
    products = targets * sources / (2 * LANES)
    cycles = {DIRECT: out_size[0] * out_size[1] * 9 * products / _DIRECT_EFFICIENCY}
    for tile in TILES:
        elements = (tile + 2) ** 2
        if tile > TILES[0] and elements * targets * sources * 4 > _MOST_WEIGHT_BYTES:
            continue
        transforms = (sources * _SOURCE_CYCLES[tile] + targets * _TARGET_CYCLES[tile]) * 8 / LANES
        tiles = math.ceil(out_size[0] / tile) * math.ceil(out_size[1] / tile)
        cycles[tile] = tiles * (transforms + elements * products / _PRODUCTS_EFFICIENCY)
    if setting == "direct":
        return DIRECT
    if setting == "winograd":
        del cycles[DIRECT]
    return min(cycles, key=lambda algorithm: cycles[algorithm])


def describe(tile: int) -> str:
    """The algorithm's name: direct, winograd 2x2 or winograd 4x4."""
    return "direct" if tile == DIRECT else f"winograd {tile}x{tile}"
