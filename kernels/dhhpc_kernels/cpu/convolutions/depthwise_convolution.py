"""Depthwise convolution: plans, workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu.convolutions import depthwise, depthwise_3x3
from dhhpc_kernels.cpu.convolutions.depthwise_planes import (
    Plan,
    correlation_workspace,
    make_plan,
    weights_workspace,
)
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Planes,
    backward_sources,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.microkernel import LINE
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads


@functools.lru_cache(maxsize=1024)
def _forward_plan(shape: Geometry) -> Plan:
    """The correlation of x's planes with the weights."""
    depth, height, width = shape.kernel
    stride, padding, dilation = shape.stride[1:], shape.padding[1:], shape.dilation[1:]
    first = -(-padding[1] // stride[1]) * stride[1]
    return make_plan(
        shape.groups,
        shape.kernels // shape.groups,
        depth,
        shape.out_size[0],
        shape.out_size[1:],
        ((height - 1) * dilation[0], first - padding[1] + (width - 1) * dilation[1]),
        stride,
        (-padding[0], -first),
        (1, 1),
        [
            [
                (
                    (source * height + r) * width + s,
                    source,
                    r * dilation[0],
                    first - padding[1] + s * dilation[1],
                )
                for source in range(depth)
                for r in range(height)
                for s in range(width)
            ]
        ],
    )


@functools.lru_cache(maxsize=1024)
def _backward_plan(shape: Geometry) -> Plan:
    """The correlation of grad_out's planes with the weights, a phase of grad_x's pixels at a time.

    Pixel q*stride + phase of x meets tap r at row q + (phase + padding - r*dilation) / stride of out, where
    that is whole.
    """
    depth, height, width = shape.kernel
    stride, padding, dilation = shape.stride[1:], shape.padding[1:], shape.dilation[1:]
    steps = [
        [
            [
                (tap, (phase + padding[axis] - tap * dilation[axis]) // stride[axis])
                for tap in range(shape.kernel[1 + axis])
                if (phase + padding[axis] - tap * dilation[axis]) % stride[axis] == 0
            ]
            for phase in range(stride[axis])
        ]
        for axis in (0, 1)
    ]
    first, last = (
        [extreme(place for phase in axis for _, place in phase) for axis in steps] for extreme in (min, max)
    )
    sources = shape.kernels // shape.groups * depth
    return make_plan(
        shape.groups,
        1,
        sources,
        shape.size[0],
        (-(-shape.size[1] // stride[0]), -(-shape.size[2] // stride[1])),
        (last[0] - first[0], last[1] - first[1]),
        (1, 1),
        (first[0], first[1]),
        stride,
        [
            [
                ((source * height + r) * width + s, source, row - first[0], column - first[1])
                for source in range(sources)
                for r, row in rows
                for s, column in columns
            ]
            for rows in steps[0]
            for columns in steps[1]
        ],
    )


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    forward_plan, backward_plan = _forward_plan(shape), _backward_plan(shape)
    sizes = [
        correlation_workspace(forward_plan),
        correlation_workspace(backward_plan),
        weights_workspace(forward_plan),
    ]
    if depthwise_3x3.fits(shape):
        sizes += [
            depthwise_3x3.correlation_workspace(forward_plan, shape.size[2]),
            depthwise_3x3.correlation_workspace(backward_plan, shape.out_size[2]),
            depthwise_3x3.weights_workspace(forward_plan, shape.size[2]),
        ]
    return LINE + threads() * _whole_lines(max(sizes))


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _parts(count: int, workspace: np.ndarray, size: int) -> list[tuple[np.ndarray, int, int]]:
    """A part of the workspace, and what it is for of 0 to count, for as many threads as it has room for."""
    # NumPy aligns to less than a line of the cache. Of vectors that begin anywhere many lie in two lines.
    address: int = workspace.__array_interface__["data"][0]
    workspace = workspace[-(address // workspace.itemsize) % LINE :]
    size = _whole_lines(size)
    check_workspace(workspace, size)
    return [
        (workspace[i * size : (i + 1) * size], first, last)
        for i, (first, last) in enumerate(shares(count, min(threads(), workspace.size // size)))
    ]


def _correlate(
    plan: Plan,
    straight: bool,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
) -> None:
    """straight: whether depthwise_3x3 fits."""
    flat = weight.reshape(-1, copy=False)
    planes = len(out.starts) * plan.layout.groups
    if straight:
        size = depthwise_3x3.correlation_workspace(plan, source.width)
        task, parts = depthwise_3x3.correlate, _parts(planes, workspace, size)
    else:
        tiles = planes * plan.layout.tiles[0] * plan.layout.tiles[1]
        task, parts = depthwise.correlate, _parts(tiles, workspace, correlation_workspace(plan))
    run_parallel(task, [(source, flat, bias, out, part, plan, first, last) for part, first, last in parts])


def forward(
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out = weight correlated with x, plus bias (K,)."""
    source, target = planes(x, forward_sources(shape)), planes(out, out_planes(shape))
    _correlate(_forward_plan(shape), depthwise_3x3.fits(shape), source, weight, bias, target, workspace)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    source, target = planes(grad_out, backward_sources(shape)), planes(grad_x, x_planes(shape))
    _correlate(
        _backward_plan(shape), depthwise_3x3.fits_backward(shape), source, weight, bias, target, workspace
    )


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight.

    The threads share out the channels, not the samples, so the sums are the same for any number of threads.
    """
    plan = _forward_plan(shape)
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    flat = grad_weight.reshape(-1, copy=False)
    if depthwise_3x3.fits(shape):
        task, size = depthwise_3x3.correlate_weights, depthwise_3x3.weights_workspace(plan, source.width)
    else:
        task, size = depthwise.correlate_weights, weights_workspace(plan)
    parts = _parts(plan.layout.groups, workspace, size)
    run_parallel(task, [(source, target, flat, part, plan, first, last) for part, first, last in parts])
