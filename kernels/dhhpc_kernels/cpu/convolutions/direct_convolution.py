"""Convolution of any shape by correlation: workspaces, and the work shared out to the threads."""

import functools

import numpy as np

from dhhpc_kernels.cpu.convolutions import correlation
from dhhpc_kernels.cpu.convolutions.blocked_product import tiles
from dhhpc_kernels.cpu.convolutions.correlation import Plan
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Planes,
    backward_correlation,
    backward_sources,
    forward_correlation,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.convolutions.turned_weights import turn_weights, turned_size
from dhhpc_kernels.cpu.microkernel import ROWS, VECTORS
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads
from dhhpc_kernels.turns import new_turns


@functools.lru_cache(maxsize=1024)
def _plan(shape: Geometry, backward: bool) -> Plan:
    return correlation.make_plan((backward_correlation if backward else forward_correlation)(shape), backward)


def _weights_part(plan: Plan, blocks: int) -> int:
    """Workspace floats of one thread that computes so many register blocks of the gradient by the weights."""
    depth = plan.source_channels * int(plan.tap_starts[-1])
    return correlation.planes_size(plan) + blocks * ROWS * (correlation.run_size(plan) + depth + VECTORS)


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the three functions need as workspace, for the number of threads set now."""
    forward_plan = _plan(shape, False)
    return max(
        threads() * correlation.correlate_workspace(forward_plan),
        turned_size(shape, ROWS) + threads() * correlation.correlate_workspace(_plan(shape, True)),
        sum(
            _weights_part(forward_plan, last - first)
            for first, last in shares(tiles(forward_plan.target_channels), threads())
        ),
    )


def _correlate(
    plan: Plan,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
) -> None:
    """Share the stripes of all images out to the threads."""
    part = correlation.correlate_workspace(plan)
    check_workspace(workspace, part)
    turns, units = new_turns(), len(source.starts) * -(-plan.grid_rows // plan.stripe_rows)
    run_parallel(
        correlation.correlate,
        [
            (
                source,
                weight.reshape(-1, copy=False),
                bias,
                out,
                workspace[i * part : (i + 1) * part],
                plan,
                turns,
                units,
            )
            for i in range(min(threads(), workspace.size // part, units))
        ],
    )


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
    _correlate(_plan(shape, False), source, weight, bias, target, workspace)


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
    turned, workspace = np.split(workspace, [turned_size(shape, ROWS)])
    turn_weights(shape, weight, turned, ROWS)
    _correlate(_plan(shape, True), source, turned, bias, target, workspace)


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight.

    The threads share out the kernels, not the samples, so the sums are the same for any number of threads.
    """
    plan = _plan(shape, False)
    source, target = planes(x, forward_sources(shape)), planes(grad_out, out_planes(shape))
    grouped = grad_weight.reshape(shape.groups, plan.target_channels, -1, copy=False)
    blocks = tiles(plan.target_channels)
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
