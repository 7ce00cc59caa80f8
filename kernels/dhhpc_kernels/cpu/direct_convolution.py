"""Convolution of any shape by correlation: workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu import correlation
from dhhpc_kernels.cpu.correlation import Pair, Plan
from dhhpc_kernels.cpu.microkernel import ROWS, VECTORS
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads

Shape = tuple[int, ...]

_NO_BIAS = np.empty(0, np.float32)


@functools.lru_cache(maxsize=1024)
def _forward_plan(
    x_channels: int,
    weight_shape: Shape,
    out_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Plan:
    """The correlation of x with the weights: one plane a channel and phase of the stride."""
    kernels, channels, height, width = weight_shape
    taps = [(r * dilation[0], s * dilation[1]) for r in range(height) for s in range(width)]
    phases = sorted({(y % stride[0], x % stride[1]) for y, x in taps})
    return correlation.make_plan(
        groups,
        channels,
        kernels // groups,
        out_size,
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
def _backward_plan(
    weight_shape: Shape, x_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """The correlation of grad_out with the weights, a phase of grad_x's pixels at a time.

    Pixel y of x meets tap r at row (y + padding - r*dilation) / stride of out, where that is whole. With
    y + padding = q*stride + phase it is row q - (r*dilation - phase) / stride.
    """
    kernels, channels, height, width = weight_shape
    taps = [(r * dilation[0], s * dilation[1]) for r in range(height) for s in range(width)]
    span = (taps[-1][0] // stride[0], taps[-1][1] // stride[1])
    phases = [(a, b) for a in range(stride[0]) for b in range(stride[1])]
    first = (padding[0] // stride[0], padding[1] // stride[1])
    grid = (
        (x_size[0] - 1 + padding[0]) // stride[0] + 1 - first[0],
        (x_size[1] - 1 + padding[1]) // stride[1] + 1 - first[1],
    )
    return correlation.make_plan(
        groups,
        kernels // groups,
        channels,
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


def workspace_size(
    x_shape: Shape,
    weight_shape: Shape,
    out_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    forward_plan = _forward_plan(x_shape[1], weight_shape, out_size, stride, padding, dilation, groups)
    backward_plan = _backward_plan(weight_shape, x_shape[2:4], stride, padding, dilation, groups)
    blocks = correlation.blocks(forward_plan.target_channels)
    return max(
        *(
            correlation.packed_weights_size(plan) + threads() * _correlation_part(plan)
            for plan in (forward_plan, backward_plan)
        ),
        sum(_weights_part(forward_plan, last - first) for first, last in shares(blocks, threads())),
    )


def _correlate(
    plan: Plan,
    source: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    source_first: bool,
) -> None:
    """Pack the weights, then share the stripes of all samples out to the threads."""
    size = correlation.packed_weights_size(plan)
    packed, workspace = workspace[:size], workspace[size:]
    grouped = weight.reshape(
        plan.groups, -1, *weight.shape[1:2], weight.shape[2] * weight.shape[3], copy=False
    )
    correlation.pack_weights(grouped, packed, plan, source_first)
    part = _correlation_part(plan)
    check_workspace(workspace, part)
    units = source.shape[0] * -(-plan.grid_rows // plan.stripe_rows)
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
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """out (N,K,OH,OW) = weight (K,C/groups,R,S) correlated with x (N,C,H,W), plus bias (K,)."""
    plan = _forward_plan(x.shape[1], weight.shape, out.shape[2:], stride, padding, dilation, groups)
    _correlate(plan, x, weight, bias, out, workspace, source_first=False)


def backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """The gradient by x, plus a bias (C,): what a transposed convolution computes forward."""
    plan = _backward_plan(weight.shape, grad_x.shape[2:], stride, padding, dilation, groups)
    _correlate(plan, grad_out, weight, bias, grad_x, workspace, source_first=True)


def backward_weights(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_weight (K,C/groups,R,S) = gradient of the loss by weight.

    The threads share out the kernels, not the samples, so the sums are the same for any number of threads.
    """
    plan = _forward_plan(x.shape[1], grad_weight.shape, grad_out.shape[2:], stride, padding, dilation, groups)
    grouped = grad_weight.reshape(groups, plan.target_channels, -1, copy=False)
    blocks = correlation.blocks(plan.target_channels)
    count = threads()
    while count > 1 and workspace.size < sum(_weights_part(plan, b - a) for a, b in shares(blocks, count)):
        count -= 1
    check_workspace(workspace, sum(_weights_part(plan, b - a) for a, b in shares(blocks, count)))
    calls = []
    place = 0
    for first, last in shares(blocks, count):
        size = _weights_part(plan, last - first)
        calls.append((x, grad_out, grouped, workspace[place : place + size], plan, first, last))
        place += size
    run_parallel(correlation.correlate_weights, calls)
