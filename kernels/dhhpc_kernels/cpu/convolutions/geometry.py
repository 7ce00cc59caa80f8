"""The shape of a convolution in one to three dimensions, and its arrays as tables of planes.

A convolution of volumes is one of planes: its channels are then the pairs of a channel and a depth tap, and
each output plane has source planes of its own. With a table that tells where each of them begins, the same
kernels serve lines, images and volumes, and no array is ever rearranged.
"""

import functools
from typing import NamedTuple

import numpy as np

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Shape = tuple[int, ...]


class Planes(NamedTuple):
    """Planes of height x width floats in a flat array; starts (images, channels) tells where, -1 is zeros."""

    values: np.ndarray
    starts: np.ndarray
    height: int
    width: int


class Geometry(NamedTuple):
    """A convolution's shape, with depth, height and width throughout; lines have height 1, images depth 1."""

    batch: int
    channels: int  # of x
    kernels: int  # channels of out
    groups: int
    size: Triple  # of x
    out_size: Triple
    kernel: Triple
    stride: Triple
    padding: Triple
    dilation: Triple

    def source_shape(self) -> Shape:
        """(kernels, channels of a group and depth taps, rows, columns) of the weights, seen as planes'."""
        return (self.kernels, self.channels // self.groups * self.kernel[0], *self.kernel[1:])


@functools.lru_cache(maxsize=1024)
def geometry(
    x_shape: Shape,
    weight_shape: Shape,
    out_size: Shape | None,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> Geometry:
    """The shape of the convolution of x (N,C,...) with weight (K,C/groups,...), of 1 to 3 spatial dimensions.

    out_size: what stands behind N and K in out's shape; None for what the formula gives.
    """
    if out_size is None:
        out_size = tuple(
            (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, spread in zip(
                x_shape[2:], weight_shape[2:], stride, padding, dilation, strict=True
            )
        )

    def triple(values: Shape, missing: int) -> Triple:
        depth, height, width = (missing,) * (3 - len(values)) + tuple(values)
        return depth, height, width

    return Geometry(
        x_shape[0],
        x_shape[1],
        weight_shape[0],
        groups,
        triple(x_shape[2:], 1),
        triple(out_size, 1),
        triple(weight_shape[2:], 1),
        triple(stride, 1),
        triple(padding, 0),
        triple(dilation, 1),
    )


class Correlation(NamedTuple):
    """A convolution, or its gradient by x, as sums over source channels and taps of planes.

    The target's pixels lie on one grid a phase: grid point q is pixel target_starts[phase] + q * target_step,
    which may lie outside, and sums weight * source pixel q * source_step + (row, column) over the phase's
    taps (index r*S + s in the kernel, row, column).
    """

    groups: int
    source_channels: int  # of a group; one for each depth tap of a channel
    target_channels: int  # of a group
    grid: Pair
    source_step: Pair
    target_step: Pair
    target_starts: tuple[Pair, ...]
    taps: tuple[tuple[Triple, ...], ...]


def _plane_taps(shape: Geometry) -> list[Pair]:
    """How far each tap of a plane reaches."""
    _, height, width = shape.kernel
    return [(r * shape.dilation[1], s * shape.dilation[2]) for r in range(height) for s in range(width)]


@functools.lru_cache(maxsize=1024)
def forward_correlation(shape: Geometry) -> Correlation:
    """out from x: one phase."""
    kernels, channels, _, _ = shape.source_shape()
    _, *padding = shape.padding
    taps = tuple((i, y - padding[0], x - padding[1]) for i, (y, x) in enumerate(_plane_taps(shape)))
    return Correlation(
        shape.groups,
        channels,
        kernels // shape.groups,
        shape.out_size[1:],
        shape.stride[1:],
        (1, 1),
        ((0, 0),),
        (taps,),
    )


@functools.lru_cache(maxsize=1024)
def backward_correlation(shape: Geometry) -> Correlation:
    """The gradient by x from the one by out: a phase for each pixel of the stride.

    Pixel y of x meets tap r at row (y + padding - r*dilation) / stride of out, where that is whole. With
    y + padding = (first + q)*stride + phase it is row first + q - (r*dilation - phase) / stride.
    """
    stride, padding = shape.stride[1:], shape.padding[1:]
    phases = [(a, b) for a in range(stride[0]) for b in range(stride[1])]
    firsts = [(-((a - padding[0]) // stride[0]), -((b - padding[1]) // stride[1])) for a, b in phases]
    starts = [
        (first[0] * stride[0] + a - padding[0], first[1] * stride[1] + b - padding[1])
        for first, (a, b) in zip(firsts, phases, strict=True)
    ]
    rows, columns = (
        max((size - 1 - start[axis]) // stride[axis] + 1 for start in starts)
        for axis, size in enumerate(shape.size[1:])
    )
    return Correlation(
        shape.groups,
        shape.kernels // shape.groups * shape.kernel[0],
        shape.channels // shape.groups,
        (rows, columns),
        (1, 1),
        stride,
        tuple(starts),
        tuple(
            tuple(
                (i, first[0] - (y - a) // stride[0], first[1] - (x - b) // stride[1])
                for i, (y, x) in enumerate(_plane_taps(shape))
                if (y - a) % stride[0] == 0 and (x - b) % stride[1] == 0
            )
            for first, (a, b) in zip(firsts, phases, strict=True)
        ),
    )


def _own_planes(batch: int, channels: int, size: Triple) -> np.ndarray:
    """(batch * depth, channels): every plane of an array, a row an image."""
    depth, height, width = size
    n, z, c = np.ogrid[:batch, :depth, :channels]
    return (((n * channels + c) * depth + z) * height * width).reshape(batch * depth, channels)


@functools.lru_cache(maxsize=256)
def x_planes(shape: Geometry) -> np.ndarray:
    """(batch * depth of x, channels): where the planes of x begin."""
    return _own_planes(shape.batch, shape.channels, shape.size)


@functools.lru_cache(maxsize=256)
def out_planes(shape: Geometry) -> np.ndarray:
    """(batch * depth of out, kernels): where the planes of out begin."""
    return _own_planes(shape.batch, shape.kernels, shape.out_size)


@functools.lru_cache(maxsize=256)
def forward_sources(shape: Geometry) -> np.ndarray:
    """(batch * depth of out, channels * depth taps): the planes of x that each plane of out is made from."""
    depth, height, width = shape.size
    n, z, c, tap = np.ogrid[: shape.batch, : shape.out_size[0], : shape.channels, : shape.kernel[0]]
    source = z * shape.stride[0] - shape.padding[0] + tap * shape.dilation[0]
    starts = ((n * shape.channels + c) * depth + source) * height * width
    inside = (source >= 0) & (source < depth)
    return np.where(inside, starts, -1).reshape(shape.batch * shape.out_size[0], -1)


@functools.lru_cache(maxsize=256)
def backward_sources(shape: Geometry) -> np.ndarray:
    """(batch * depth of x, kernels * depth taps): the planes of out that each plane of x contributes to."""
    depth, height, width = shape.out_size
    n, z, k, tap = np.ogrid[: shape.batch, : shape.size[0], : shape.kernels, : shape.kernel[0]]
    target, rest = np.divmod(z + shape.padding[0] - tap * shape.dilation[0], shape.stride[0])
    starts = ((n * shape.kernels + k) * depth + target) * height * width
    inside = (rest == 0) & (target >= 0) & (target < depth)
    return np.where(inside, starts, -1).reshape(shape.batch * shape.size[0], -1)


def planes(array: np.ndarray, starts: np.ndarray) -> Planes:
    """A C-contiguous array (N,C,...) with such a table."""
    height, width = (1, *array.shape[2:])[-2:]
    return Planes(array.reshape(-1, copy=False), starts, height, width)
