"""Convolution of any shape by correlation: workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu import correlation
from dhhpc_kernels.cpu.correlation import Plan
from dhhpc_kernels.cpu.geometry import (
    Geometry,
    Planes,
    backward_sources,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.microkernel import ROWS, VECTORS
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads

_NO_BIAS = np.empty(0, np.float32)


@functools.lru_cache(maxsize=1024)
def _forward_plan(shape: Geometry) -> Plan:
    """The correlation of x's planes with the weights: one packed plane a channel and phase of the stride."""
    kernels, channels, height, width = shape.source_shape()
    stride, padding, dilation = shape.stride[1:], shape.padding[1:], shape.dilation[1:]
    taps = [(r * dilation[0], s * dilation[1]) for r in range(height) for s in range(width)]
    phases = sorted({(y % stride[0], x % stride[1]) for y, x in taps})
    return correlation.make_plan(
        shape.groups,
        channels,
        kernels // shape.groups,
        shape.out_size[1:],
        (taps[-1][0] // stride[0], taps[-1][1] // stride[1]),
        stride,
        [(y - padding[0], x - padding[1]) for y, x in phases],
        (1, 1),
        [(0, 0)],
        [
            [
                (tap, phases.index((y % stride[0], x % stride[1])), y // stride[0], x // stride[1])
                for tap, (y, x) in enumerate(taps)
            ]
        ],
    )


@functools.lru_cache(maxsize=1024)
def _backward_plan(shape: Geometry) -> Plan:
    """The correlation of grad_out's planes with the weights, a phase of grad_x's pixels at a time.

    Pixel y of x meets tap r at row (y + padding - r*dilation) / stride of out, where that is whole. With
    y + padding = q*stride + phase it is row q - (r*dilation - phase) / stride.
    """
    _, height, width = shape.kernel
    stride, padding, dilation = shape.stride[1:], shape.padding[1:], shape.dilation[1:]
    taps = [(r * dilation[0], s * dilation[1]) for r in range(height) for s in range(width)]
    span = (taps[-1][0] // stride[0], taps[-1][1] // stride[1])
    phases = [(a, b) for a in range(stride[0]) for b in range(stride[1])]
    first = (padding[0] // stride[0], padding[1] // stride[1])
    grid = (
        (shape.size[1] - 1 + padding[0]) // stride[0] + 1 - first[0],
        (shape.size[2] - 1 + padding[1]) // stride[1] + 1 - first[1],
    )
    return correlation.make_plan(
        shape.groups,
        shape.kernels // shape.groups * shape.kernel[0],
        shape.channels // shape.groups,
        grid,
        span,
        (1, 1),
        [(first[0] - span[0], first[1] - span[1])],
        stride,
        [(first[0] * stride[0] + a - padding[0], first[1] * stride[1] + b - padding[1]) for a, b in phases],
        [
            [
                (tap, 0, span[0] - (y - a) // stride[0], span[1] - (x - b) // stride[1])
                for tap, (y, x) in enumerate(taps)
                if (y - a) % stride[0] == 0 and (x - b) % stride[1] == 0
            ]
            for a, b in phases
        ],
    )


def _correlation_part(plan: Plan) -> int:
    """Workspace floats of one thread in a correlation."""
    return correlation.planes_size(plan) + ROWS * correlation.run_size(plan)


def _weights_part(plan: Plan, blocks: int) -> int:
    """Workspace floats of one thread that computes so many register blocks of the gradient by the weights."""
    depth = plan.source_channels * len(plan.taps)
    return correlation.planes_size(plan) + blocks * ROWS * (correlation.run_size(plan) + depth + VECTORS)


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    forward_plan = _forward_plan(shape)
    blocks = correlation.blocks(forward_plan.target_channels)
    return max(
        *(
            correlation.packed_weights_size(plan) + threads() * _correlation_part(plan)
            for plan in (forward_plan, _backward_plan(shape))
        ),
        sum(_weights_part(forward_plan, last - first) for first, last in shares(blocks, threads())),
    )


def _correlate(
    shape: Geometry,
    plan: Plan,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: Planes,
    workspace: np.ndarray,
    source_first: bool,
) -> None:
    """Pack the weights, then share the stripes of all images out to the threads.

    source_first: the weights' first axis counts the source's channels, else the target's.
    """
    size = correlation.packed_weights_size(plan)
    packed, workspace = workspace[:size], workspace[size:]
    whole = weight[0].size
    part_of_it = weight[0, 0].size
    strides = (
        shape.kernels // shape.groups * whole,
        part_of_it if source_first else whole,
        whole if source_first else part_of_it,
    )
    correlation.pack_weights(weight.reshape(-1, copy=False), packed, plan, strides, shape.kernel[0])
    part = _correlation_part(plan)
    check_workspace(workspace, part)
    units = len(source.starts) * -(-plan.grid_rows // plan.stripe_rows)
    run_parallel(
        correlation.correlate,
        [
            (
                source,
                packed,
                _NO_BIAS if bias is None else bias,
                out,
                workspace[i * part : (i + 1) * part],
                plan,
                first,
                last,
            )
            for i, (first, last) in enumerate(shares(units, min(threads(), workspace.size // part)))
        ],
    )


def forward(
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out = weight correlated with x, plus bias (K,)."""
    source, target = planes(x, forward_sources(shape)), planes(out, out_planes(shape))
    _correlate(shape, _forward_plan(shape), source, weight, bias, target, workspace, source_first=False)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    source, target = planes(grad_out, backward_sources(shape)), planes(grad_x, x_planes(shape))
    _correlate(shape, _backward_plan(shape), source, weight, bias, target, workspace, source_first=True)


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight.

    The threads share out the kernels, not the samples, so the sums are the same for any number of threads.
    """
    plan = _forward_plan(shape)
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    grouped = grad_weight.reshape(shape.groups, plan.target_channels, -1, copy=False)
    blocks = correlation.blocks(plan.target_channels)
    count = threads()
    while count > 1 and workspace.size < sum(_weights_part(plan, b - a) for a, b in shares(blocks, count)):
        count -= 1
    check_workspace(workspace, sum(_weights_part(plan, b - a) for a, b in shares(blocks, count)))
    calls = []
    place = 0
    for first, last in shares(blocks, count):
        size = _weights_part(plan, last - first)
        calls.append((source, target, grouped, workspace[place : place + size], plan, first, last))
        place += size
    run_parallel(correlation.correlate_weights, calls)
