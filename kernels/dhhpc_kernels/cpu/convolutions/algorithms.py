"""Which algorithm convolves which shape: a small model of the cycles that each takes."""

import functools
import math
import os

from dhhpc_kernels.cpu.convolutions import pointwise_convolution, pointwise_gradient
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles, windows
from dhhpc_kernels.cpu.convolutions.geometry import (
    Correlation,
    Geometry,
    Pair,
    backward_correlation,
    forward_correlation,
)
from dhhpc_kernels.cpu.convolutions.winograd_strided import is_strided
from dhhpc_kernels.cpu.convolutions.winograd_strided_transforms import PHASES, PRODUCTS, TILE
from dhhpc_kernels.cpu.microkernel import COLUMNS, HEIGHT, LANES, ROWS
from dhhpc_kernels.cpu.panels import panels

DIRECT, DEPTHWISE, PRODUCT, SUMS, STRIDED, POINTWISE = 0, 1, 3, 5, 6, 7
TILES = (2, 4)  # of Winograd's algorithm
_FORCED = {"direct": DIRECT, "product": PRODUCT}

# Measured with vectors of 8 lanes, in cycles: to transform a tile of one source channel and one of a target
# channel, and the part of the peak that the inner loops reach.
_SOURCE_CYCLES = {2: 18.0, 4: 42.0}
_TARGET_CYCLES = {2: 10.0, 4: 22.0}
_PHASE_CYCLES, _PIXELS_CYCLES = 75.0, 55.0  # the same at a stride of 2, of one phase
_PRODUCTS_EFFICIENCY, _PACKED_EFFICIENCY, _DIRECT_EFFICIENCY = 0.75, 0.9, 0.65
# Of the two direct algorithms: to gather a pixel of one source channel under one tap, and to store one of a
# target channel; to copy a pixel of a source plane; and the part of the peak for the gradient by the weights,
# which one takes by sums along the pixels, and the other from turned pixels.
_GATHER_CYCLES, _STORE_CYCLES, _COPY_CYCLES = 1.8, 0.8, 2.0
_SUMS_EFFICIENCY, _SUMS_EFFICIENCY_OF_MANY, _TURN_CYCLES = 0.65, 0.5, 0.5
# Of a source and a target channel for each of them at a stride of 2, forward and by x: with more, Winograd's
# transformed weights are too many for the caches.
_MOST_PAIRS, _MOST_PAIRS_BACKWARD = 40, 64
_MANY_CHANNELS = 16  # whose planes no longer stay in the first-level cache
# Of a channel; of more, the other algorithms multiply a pixel that they have loaded by several kernels.
_MOST_KERNELS = 8


def _setting() -> str:
    """auto, direct, product or winograd from DHHPC_CONVOLUTION. Raises ValueError for another value."""
    value = os.environ.get("DHHPC_CONVOLUTION", "auto")
    if value not in ("auto", "direct", "product", "winograd"):
        raise ValueError(f"DHHPC_CONVOLUTION is {value!r}; set it to auto, direct, product or winograd")
    return value


def _suited(shape: Geometry) -> bool:
    return (
        shape.kernel[1:] == (3, 3)
        and (shape.stride[1:], shape.dilation[1:], shape.groups) == ((1, 1), (1, 1), 1)
        and max(shape.padding[1:]) <= 2
    )


def _is_depthwise(shape: Geometry, setting: str) -> bool:
    """Whether it has one source channel a group, and few kernels for each."""
    few = shape.kernels <= _MOST_KERNELS * shape.groups
    return shape.channels == shape.groups and few and setting == "auto"


def choose_forward(shape: Geometry) -> int:
    """DIRECT, DEPTHWISE, POINTWISE, PRODUCT, STRIDED or the size of Winograd's tiles, for the output.

    Winograd is for kernels of 3x3, with any depth, at stride 1; DHHPC_CONVOLUTION=direct, product or winograd
    overrides the model where there is a choice. The choice depends on the shape of one sample alone, so that
    results do not depend on the number of threads or of samples in a batch.
    """
    return _choose_forward(shape, _setting())


def choose_backward(shape: Geometry) -> int:
    """The same for the gradient by x."""
    return _choose_backward(shape, _setting())


def choose_weights(shape: Geometry) -> int:
    """The same, or SUMS, for the gradient by the weights."""
    return _choose_weights(shape, _setting())


@functools.lru_cache(maxsize=1024)
def _choose_forward(shape: Geometry, setting: str) -> int:
    if _is_depthwise(shape, setting):
        return DEPTHWISE
    if pointwise_convolution.fits(shape, shape.kernels) and setting not in _FORCED:
        return POINTWISE
    transforms = PHASES * shape.channels * _PHASE_CYCLES + shape.kernels * _PIXELS_CYCLES
    return _winograd_forward(shape, setting) or _strided_or_correlation(
        shape, forward_correlation(shape), _MOST_PAIRS, transforms, setting
    )


@functools.lru_cache(maxsize=1024)
def _choose_backward(shape: Geometry, setting: str) -> int:
    if _is_depthwise(shape, setting):
        return DEPTHWISE
    if pointwise_convolution.fits(shape, shape.channels) and setting not in _FORCED:
        return POINTWISE
    if _suited(shape):
        tile = _cheapest(shape.channels, shape.kernels * shape.kernel[0], shape.size[1:], setting)
        if tile != DIRECT:
            return tile
    transforms = shape.kernels * _PHASE_CYCLES + PHASES * shape.channels * _PIXELS_CYCLES
    return _strided_or_correlation(
        shape, backward_correlation(shape), _MOST_PAIRS_BACKWARD, transforms, setting
    )


@functools.lru_cache(maxsize=1024)
def _choose_weights(shape: Geometry, setting: str) -> int:
    if _is_depthwise(shape, setting):
        return DEPTHWISE
    if pointwise_gradient.fits(shape) and setting not in _FORCED:
        return SUMS
    tile = _winograd_forward(shape, setting)
    if tile or setting in _FORCED:
        return tile or _FORCED[setting]
    correlation = forward_correlation(shape)
    products = tiles(correlation.target_channels) * ROWS / (2 * LANES)
    gathered = products / _PRODUCTS_EFFICIENCY + _GATHER_CYCLES + _TURN_CYCLES
    many = correlation.source_channels > _MANY_CHANNELS
    summed = products / (_SUMS_EFFICIENCY_OF_MANY if many else _SUMS_EFFICIENCY)
    return DIRECT if summed < gathered else PRODUCT


def _winograd_forward(shape: Geometry, setting: str) -> int:
    """The size of Winograd's tiles of out, for it and for the gradient by the weights; or DIRECT."""
    if not _suited(shape):
        return DIRECT
    return _cheapest(shape.kernels, shape.channels * shape.kernel[0], shape.out_size[1:], setting)


def _cheaper_correlation(correlation: Correlation) -> tuple[int, float]:
    """DIRECT or PRODUCT, and the cycles for one pixel of the target, one tap and one source channel."""
    taps = [tap for phase in correlation.taps for tap in phase]
    rows, columns = correlation.grid
    span = max(column for _, _, column in taps) - min(column for _, _, column in taps)
    pitch = columns + span // correlation.source_step[1]
    run = windows((rows - 1) * pitch + columns) * COLUMNS / (rows * columns)
    many = correlation.source_channels > _MANY_CHANNELS
    products = run * tiles(correlation.target_channels) * ROWS / (2 * LANES)
    step = correlation.source_step[0] * correlation.source_step[1]
    copying = _COPY_CYCLES * step / len(taps)
    direct = products / (_DIRECT_EFFICIENCY if many else _PRODUCTS_EFFICIENCY) + copying
    # What several phases' taps meet is gathered once.
    once = len({tap[1:] for tap in taps}) / len(taps)
    stored = correlation.target_channels * len(correlation.taps) / (correlation.source_channels * len(taps))
    products = panels(correlation.target_channels, HEIGHT) * HEIGHT / (2 * LANES)
    gathered = products / _PACKED_EFFICIENCY + once * _GATHER_CYCLES + stored * _STORE_CYCLES
    return min((direct, DIRECT), (gathered, PRODUCT))[::-1]


def _strided_or_correlation(
    shape: Geometry, correlation: Correlation, most_pairs: int, transforms: float, setting: str
) -> int:
    """STRIDED, where the shape allows it, DIRECT or PRODUCT. transforms: cycles for a tile's channels."""
    if setting in _FORCED:
        return _FORCED[setting]
    algorithm, cycles = _cheaper_correlation(correlation)
    if not is_strided(shape):
        return algorithm
    if setting == "winograd":
        return STRIDED
    if shape.channels * shape.kernels > most_pairs * (shape.channels + shape.kernels):
        return algorithm  # the transformed weights would be too many
    rows, columns = shape.out_size[1:]
    tile_rows, tile_columns = -(-rows // TILE), -(-columns // TILE)
    lanes = tile_rows * -(-tile_columns // LANES) * LANES
    products = tile_rows * tile_columns * PRODUCTS * shape.channels * shape.kernels / (2 * LANES)
    strided = lanes * transforms * 8 / LANES + products / _PRODUCTS_EFFICIENCY
    points = correlation.grid[0] * correlation.grid[1]
    return STRIDED if strided < points * 9 * correlation.source_channels * cycles else algorithm


def _cheapest(targets: int, sources: int, out_size: Pair, setting: str) -> int:
    """DIRECT, for both other algorithms, or the size of Winograd's tiles."""
    if setting in _FORCED:
        return DIRECT
    products = targets * sources / (2 * LANES)
    cycles = {DIRECT: out_size[0] * out_size[1] * 9 * products / _DIRECT_EFFICIENCY}
    for tile in TILES:
        elements = (tile + 2) ** 2
        transforms = (sources * _SOURCE_CYCLES[tile] + targets * _TARGET_CYCLES[tile]) * 8 / LANES
        count = math.ceil(out_size[0] / tile) * math.ceil(out_size[1] / tile)
        cycles[tile] = count * (transforms + elements * products / _PRODUCTS_EFFICIENCY)
    if setting == "winograd":
        del cycles[DIRECT]
    return min(cycles, key=lambda algorithm: cycles[algorithm])


def describe(algorithm: int) -> str:
    """The algorithm's name, such as direct or winograd 2x2."""
    names = {
        DIRECT: "direct",
        DEPTHWISE: "depthwise",
        PRODUCT: "implicit product",
        SUMS: "sums along pixels",
        STRIDED: "winograd 4x4 at stride 2",
        POINTWISE: "pointwise product",
    }
    return names.get(algorithm, f"winograd {algorithm}x{algorithm}")
