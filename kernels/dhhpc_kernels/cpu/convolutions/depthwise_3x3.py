"""Depthwise convolution by 3x3 taps around each pixel, at stride 1 or 2: sums straight from the planes.

Nothing is copied, unlike in `depthwise`, which sums in the same order and so to the same bits. It is left the
first and the last plane of an array, for here vectors read the floats before a plane and behind it.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.convolutions import depthwise, depthwise_planes
from dhhpc_kernels.cpu.convolutions.depthwise_3x3_kernels import (
    BLOCK_ROWS,
    TAPS,
    correlate_1,
    correlate_2,
    spread_2,
    sum_products_1,
    sum_products_2,
)
from dhhpc_kernels.cpu.convolutions.depthwise_planes import Plan
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, Planes
from dhhpc_kernels.cpu.convolutions.memory_places import clear_run, gather_run, place_of
from dhhpc_kernels.cpu.microkernel import LANES

_MOST_SUMMED = 4096  # pixels at once: the error of longer sums grows
_SCRATCH_FLOATS = TAPS * LANES + 2  # beside a row of the source


def fits(shape: Geometry) -> bool:
    """Whether this computes the convolution and its gradient by the weights."""
    stride = shape.stride[1]
    planes = shape.channels == shape.kernels == shape.groups and shape.size[0] == shape.out_size[0] == 1
    taps = (shape.kernel, shape.padding, shape.dilation) == ((1, 3, 3), (0, 1, 1), (1, 1, 1))
    steps = stride in (1, 2) and shape.stride[2] == stride
    whole = tuple(-(-length // stride) for length in shape.size[1:]) == shape.out_size[1:]
    large = shape.out_size[1] >= BLOCK_ROWS and shape.out_size[2] > LANES
    return planes and taps and steps and whole and large


def fits_backward(shape: Geometry) -> bool:
    """Whether this computes the gradient by x."""
    return fits(shape) and all(length % shape.stride[1] == 0 for length in shape.size[1:])


def correlation_workspace(plan: Plan, width: int) -> int:
    """Floats that `correlate` needs, for source planes so wide."""
    return depthwise_planes.correlation_workspace(plan) + _SCRATCH_FLOATS + width


def weights_workspace(plan: Plan, width: int) -> int:
    """Floats that `correlate_weights` needs, for source planes so wide."""
    return depthwise_planes.weights_workspace(plan) + _SCRATCH_FLOATS + width


@compile_part
def _scratch(workspace: np.ndarray, width: int) -> tuple[int, int]:
    """Where the last floats of a workspace begin: a vector a tap; a row of zeros, one more on either side."""
    vectors = place_of(workspace) + workspace.size - _SCRATCH_FLOATS - width
    zeros = vectors + TAPS * LANES
    clear_run(zeros, width + 2)
    return vectors, zeros + 1


@compile_part
def _at_an_end(start: int, planes: Planes) -> bool:
    """Whether the plane that starts there is the first or the last in its array."""
    return start == 0 or start == planes.values.size - planes.height * planes.width


@compile_kernel
def correlate(
    source: Planes,
    weights: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    plan: Plan,
    first: int,
    last: int,
) -> None:
    """Planes first to last (numbered over all samples) of out, as by `depthwise.correlate`."""
    channels, tiles = plan.layout.groups, plan.layout.tiles[0] * plan.layout.tiles[1]
    source_starts, starts = source.starts, out.starts
    size, out_size = (source.height, source.width), (out.height, out.width)
    source_place, out_place = place_of(source.values), place_of(out.values)
    weights_place, taps = place_of(weights), place_of(plan.taps)
    factors, zeros = _scratch(workspace, source.width)
    for plane in range(first, last):
        image, channel = divmod(plane, channels)
        start = source_starts[image, channel]
        if _at_an_end(start, source):
            depthwise.correlate(
                source, weights, bias, out, workspace, plan, plane * tiles, (plane + 1) * tiles
            )
            continue
        gather_run(weights_place + channel * TAPS, taps, factors, TAPS)
        initial = bias[channel] if bias.size else np.float32(0)
        here, there = source_place + start, out_place + starts[image, channel]
        if out_size[0] == size[0]:
            correlate_1(here, size, factors, initial, there, out_size, zeros)
        elif out_size[0] < size[0]:
            correlate_2(here, size, factors, initial, there, out_size, zeros)
        else:
            spread_2(here, size, factors, initial, there, zeros)


@compile_kernel
def correlate_weights(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    first: int,
    last: int,
) -> None:
    """Channels first to last of flat grad_weight, as by `depthwise.correlate_weights`."""
    source_starts, starts = source.starts, grad_out.starts
    size, out_size = (source.height, source.width), (grad_out.height, grad_out.width)
    source_place, grad_place = place_of(source.values), place_of(grad_out.values)
    samples, most_rows = len(starts), max(1, _MOST_SUMMED // out_size[1])
    totals = workspace[workspace.size - _SCRATCH_FLOATS - source.width :]
    sums, zeros = _scratch(workspace, source.width)
    for channel in range(first, last):
        at_an_end = _at_an_end(source_starts[0, channel], source)
        if at_an_end or _at_an_end(source_starts[samples - 1, channel], source):
            depthwise.correlate_weights(source, grad_out, grad_weight, workspace, plan, channel, channel + 1)
            continue
        clear_run(sums, TAPS * LANES)
        for sample in range(samples):
            gradient = grad_place + starts[sample, channel]
            here = source_place + source_starts[sample, channel]
            for row in range(0, out_size[0], most_rows):
                rows = min(most_rows, out_size[0] - row)
                if out_size[0] == size[0]:
                    sum_products_1(gradient, out_size, row, rows, here, size, sums, zeros)
                else:
                    sum_products_2(gradient, out_size, row, rows, here, size, sums, zeros)
        depthwise.add_lanes(totals, plan.taps, grad_weight, channel * TAPS)
