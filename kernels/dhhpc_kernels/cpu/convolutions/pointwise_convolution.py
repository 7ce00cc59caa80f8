"""Pointwise convolutions (of one pixel, at any stride in the plane): workspaces, and the threads' shares."""

import functools
import math

import numpy as np

from dhhpc_kernels.cpu.convolutions.chunks import even_chunk, row_blocks
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, Triple
from dhhpc_kernels.cpu.convolutions.lattices import Lattice
from dhhpc_kernels.cpu.convolutions.pixels import CACHED_FLOATS
from dhhpc_kernels.cpu.convolutions.pointwise_product import (
    Plan,
    multiply_pixels,
    pack_weights,
    packed_size,
    product_workspace,
)
from dhhpc_kernels.cpu.microkernel import HEIGHT, LINE, WIDTH
from dhhpc_kernels.cpu.panels import padded_depth, panels
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, run_shares, threads
from dhhpc_kernels.turns import new_turns

_CHUNK_FLOATS = 64 * 1024  # of a chunk's panels, unless windows were too few: they go by for each block again
_LEAST_WINDOWS, _MOST_WINDOWS = 4, 16  # of a chunk


def fits(shape: Geometry, targets: int) -> bool:
    """Whether each pixel of so many target channels is made from one of the source's alone.

    The channels must be those of a block at least, the stride the same in rows and columns, 1 in depth, and
    no pixel of x beyond what out reaches.
    """
    alone = shape.kernel == (1, 1, 1) and shape.padding == (0, 0, 0)
    even = shape.stride == (1, shape.stride[2], shape.stride[2])
    reached = tuple(-(-size // step) for size, step in zip(shape.size, shape.stride, strict=True))
    return alone and even and reached == shape.out_size and targets >= HEIGHT * shape.groups


def _dense(size: Triple) -> Lattice:
    pixels = math.prod(size)
    return Lattice(pixels, pixels, np.zeros(1, np.int64), 1, 1, 1, pixels)


def _strided(shape: Geometry) -> Lattice:
    """The pixels of x that out is made from."""
    (depth, height, width), (_, rows, columns) = shape.size, shape.out_size
    z, y = np.ogrid[:depth, :rows]
    starts = ((z * height + y * shape.stride[1]) * width).reshape(-1)
    return Lattice(depth * height * width, columns, starts, shape.stride[2], rows, height, width)


def _most_windows(depth: int) -> int:
    return max(_LEAST_WINDOWS, min(_MOST_WINDOWS, _CHUNK_FLOATS // (depth * WIDTH)))


@functools.lru_cache(maxsize=1024)
def _plan(shape: Geometry, backward: bool, workers: int) -> Plan:
    kernels, channels = shape.kernels // shape.groups, shape.channels // shape.groups
    at_stride = shape.stride != (1, 1, 1)
    x, out = _strided(shape) if at_stride else _dense(shape.size), _dense(shape.out_size)
    sources, targets = (kernels, channels) if backward else (channels, kernels)
    pixels, out_columns = math.prod(shape.out_size), shape.out_size[2]
    depth = padded_depth(sources)
    windows = panels(shape.batch * pixels, WIDTH)
    chunk = min(windows, even_chunk(windows, _most_windows(depth), workers))
    if at_stride and backward:
        whole_rows = math.lcm(out_columns, WIDTH) // WIDTH
        chunk = chunk // whole_rows * whole_rows or chunk
    rows = row_blocks(panels(targets, HEIGHT), shape.groups * -(-windows // chunk), workers) * HEIGHT
    return Plan(
        shape.batch,
        shape.groups,
        sources,
        targets,
        out if backward else x,
        x if backward else out,
        pixels,
        depth,
        chunk * WIDTH,
        rows,
    )


def forward(
    shape: Geometry,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """out (N,K,...) = weight (K,C/groups,1...) times the pixels of x (N,C,...), plus bias (K,) or none."""
    plan = _plan(shape, False, threads())
    _multiply(plan, x, weight, (plan.channels, 1), bias, out, workspace)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,) or none."""
    plan = _plan(shape, True, threads())
    _multiply(plan, grad_out, weight, (1, plan.targets), bias, grad_x, workspace)


def _whole_lines(plan: Plan) -> bool:
    """Whether what a thread writes at once of an aligned array is whole cache lines."""
    target = plan.target
    if target.step == 1:
        return plan.pixels % WIDTH == 0
    squares = (target.step, target.height, target.width) == (2, 2 * target.plane_rows, 2 * target.columns)
    return squares and 2 * target.width % LINE == 0 and plan.chunk % target.columns == 0


def _multiply(
    plan: Plan,
    source: np.ndarray,
    weight: np.ndarray,
    steps: tuple[int, int],
    bias: np.ndarray,
    out: np.ndarray,
    workspace: np.ndarray,
) -> None:
    size, weights_size = product_workspace(plan), packed_size(plan)
    check_workspace(workspace, weights_size + size)
    packed, workspace = workspace[:weights_size], workspace[weights_size:]
    weights = weight.reshape(-1, copy=False)
    blocks = panels(plan.targets, HEIGHT)
    run_shares(pack_weights, blocks, 2 * weights.size, weights, *steps, bias, packed, plan)
    whole_lines = _whole_lines(plan) and out.ctypes.data % (4 * LINE) == 0
    chunks = -(-plan.images * plan.pixels // plan.chunk)
    turns, units = new_turns(), plan.groups * chunks * -(-plan.targets // plan.rows)
    arrays = source.reshape(-1, copy=False), packed, out.reshape(-1, copy=False)
    run_parallel(
        multiply_pixels,
        [
            (
                *arrays,
                whole_lines and out.size > CACHED_FLOATS,
                workspace[i * size : (i + 1) * size],
                plan,
                turns,
                units,
            )
            for i in range(min(threads(), workspace.size // size, units))
        ],
    )


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the two functions need as workspace, for the number of threads set now."""
    sizes = []
    for backward in (False, True):
        plan = _plan(shape, backward, threads())
        largest = plan._replace(chunk=_most_windows(plan.depth) * WIDTH)  # on any other number of threads
        parts = max(threads() * product_workspace(plan), product_workspace(largest))
        sizes.append(packed_size(plan) + parts)
    return max(sizes)
