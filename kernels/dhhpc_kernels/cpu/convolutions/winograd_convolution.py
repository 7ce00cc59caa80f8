"""Convolution of 3x3 kernels at stride 1 by Winograd's algorithm: up to four times fewer multiplications.

Tiles of the source are transformed, so that the convolution becomes one matrix product over the channels for
each of a tile's 16 or 36 transformed elements (Lavin and Gray 2016); the products are transformed back. With
many tiles, transformed weights, or the sums of their gradient, stay while the tiles pass by
(`winograd_resident`, `winograd_summed`); with many channels, tiles stay while the weights pass by
(`winograd_streaming`, `winograd_gradient`).
"""

import numpy as np

from dhhpc_kernels.cpu.convolutions import (
    winograd_gradient,
    winograd_resident,
    winograd_streaming,
    winograd_summed,
)
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Pair,
    Planes,
    backward_sources,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.convolutions.winograd_tiles import kernels_of


def _streams(tile: int, batch: int, channels: Pair, out_size: Pair) -> bool:
    """Whether the channels are many, by themselves or for the number of tiles, so that weights pass by.

    The limits are measured. Both ways give the same bits, so that the batch does not matter to an image's.
    """
    tiles = batch * -(-out_size[0] // tile) * -(-out_size[1] // tile)
    return channels[0] * channels[1] >= min(tiles // 2, 80) * sum(channels)


def _streams_gradient(tile: int, batch: int, channels: Pair, out_size: Pair) -> bool:
    """The same for the gradient by the weights, where it is the sums over the tiles that pass by."""
    tiles = batch * -(-out_size[0] // tile) * -(-out_size[1] // tile)
    return channels[0] * channels[1] >= min(tiles // 8, 25) * sum(channels)


def _convolve(
    tile: int,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    padding: Pair,
    source_first: bool,
) -> None:
    """source_first: the weights' first axis counts the source's channels, and the kernels are turned."""
    batch, channels = source.starts.shape
    streams = _streams(tile, batch, (channels, out.starts.shape[1]), (out.height, out.width))
    run = winograd_streaming.convolve if streams else winograd_resident.convolve
    run(tile, source, kernels_of(weight, source_first), bias, out, workspace, padding)


def _workspace(tile: int, batch: int, channels: Pair, out_size: Pair, padding: Pair) -> int:
    streams = _streams(tile, batch, channels, out_size)
    run = winograd_streaming.convolve_workspace if streams else winograd_resident.convolve_workspace
    return run(tile, batch, channels, out_size, padding)


def forward(
    tile: int,
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out = weight correlated with x, plus bias (K,)."""
    source, target = planes(x, forward_sources(shape)), planes(out, out_planes(shape))
    _convolve(tile, source, weight, bias, target, workspace, shape.padding[1:], source_first=False)


def forward_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `forward` needs, for the number of threads set now."""
    channels = (shape.channels * shape.kernel[0], shape.kernels)
    return _workspace(tile, shape.batch * shape.out_size[0], channels, shape.out_size[1:], shape.padding[1:])


def _turned_padding(shape: Geometry) -> Pair:
    return 2 - shape.padding[1], 2 - shape.padding[2]


def backward_data(
    tile: int,
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    source, target = planes(grad_out, backward_sources(shape)), planes(grad_x, x_planes(shape))
    _convolve(tile, source, weight, bias, target, workspace, _turned_padding(shape), source_first=True)


def backward_data_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `backward_data` needs, for the number of threads set now."""
    channels = (shape.kernels * shape.kernel[0], shape.channels)
    return _workspace(tile, shape.batch * shape.size[0], channels, shape.size[1:], _turned_padding(shape))


def backward_weights(
    tile: int,
    shape: Geometry,
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """grad_weight = gradient of the loss by weight."""
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    batch, channels = source.starts.shape
    targets = target.starts.shape[1]
    streams = _streams_gradient(tile, batch, (channels, targets), shape.out_size[1:])
    run = winograd_gradient.convolve_gradient if streams else winograd_summed.convolve_gradient
    taps = grad_weight.reshape(targets, channels, 9, copy=False)
    run(tile, source, target, taps, workspace, shape.padding[1:])


def backward_weights_workspace(tile: int, shape: Geometry) -> int:
    """Number of float32 that `backward_weights` needs, for the number of threads set now."""
    batch, out_size = shape.batch * shape.out_size[0], shape.out_size[1:]
    channels = (shape.channels * shape.kernel[0], shape.kernels)
    module = winograd_gradient if _streams_gradient(tile, batch, channels, out_size) else winograd_summed
    return module.convolve_gradient_workspace(tile, batch, channels, out_size, shape.padding[1:])
