"""Convolution of 3x3 kernels at stride 2 by Winograd's algorithm, and its gradient by x.

At stride 2, a kernel convolves each of its pixels' four phases at stride 1, with two taps or one a side. All
share the elements of a transformed tile: forward, their products are summed over the phases' channels, for
the gradient by x each phase has channels of its own. The 16 results of a tile take 81 multiplications for
each pair of channels in place of 144. As in `winograd_resident`, tiles are the lanes of the products.
"""

import functools

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions import winograd_plan
from dhhpc_kernels.cpu.convolutions.geometry import (
    Geometry,
    Planes,
    backward_sources,
    forward_sources,
    out_planes,
    planes,
    x_planes,
)
from dhhpc_kernels.cpu.convolutions.winograd_plan import Plan, register_blocks
from dhhpc_kernels.cpu.convolutions.winograd_strided_tiles import (
    store_targets,
    transform_sources,
    transform_weights,
)
from dhhpc_kernels.cpu.convolutions.winograd_strided_transforms import ELEMENTS, PHASES, TILE, phases_of
from dhhpc_kernels.cpu.convolutions.winograd_tiles import kernels_of
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, ROWS, multiply_rows
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, shares, threads
from dhhpc_kernels.turns import new_turns, take_turn

_DEPTH = 128  # source channels whose window of tiles stays in the first-level cache


def is_strided(shape: Geometry) -> bool:
    """Whether it is a convolution of images by 3x3 kernels at stride 2 with a padding of one."""
    planar = (shape.kernel, shape.padding[1:], shape.stride[1:]) == ((1, 3, 3), (1, 1), (2, 2))
    # Transformed weights are written whole vectors at a time, a phase's behind another's.
    return (
        planar
        and shape.dilation[1:] == (1, 1)
        and shape.groups == 1
        and shape.channels % (LANES // ROWS) == 0
    )


@compile_kernel
def _convolve_units(
    source: Planes,
    kernels: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    by_x: bool,
    parts: int,
    turns: np.ndarray,
    units: int,
) -> None:
    """Units of out, in turn with other threads: blocks of tile rows, in so many parts of target channels.

    workspace: 2 * TILE lines, plan.rows, transformed sources, and a part's products.
    """
    channels, targets = source.starts.shape[1], out.starts.shape[1]
    blocks = -(-targets // ROWS)
    part_blocks = -(-blocks // parts)
    lines = workspace[: 2 * TILE * plan.line]
    rest = workspace[lines.size :]
    rows_space, rest = rest[: plan.rows], rest[plan.rows :]
    sources, products = rest[: ELEMENTS * plan.source_pitch], rest[ELEMENTS * plan.source_pitch :]
    pitch = products.size // ELEMENTS
    phase_pitch = part_blocks * ROWS * plan.pitch
    transformed = -1
    unit = take_turn(turns)
    while unit < units:
        block_row, part = divmod(unit, parts)
        first_row = block_row * plan.block_rows
        rows = min(plan.block_rows, len(source.starts) * plan.tile_rows - first_row)
        if transformed != block_row:
            transform_sources(source, sources, rows_space, plan, by_x, first_row, rows)
            transformed = block_row
        begin, end = part * part_blocks, min(blocks, (part + 1) * part_blocks)
        for element in range(ELEMENTS):
            first, last = phases_of(element)
            channel, depth = first * channels, (last - first) * channels
            if by_x:
                channel, depth = 0, channels
            else:
                first, last = 0, 1
            for phase in range(first, last):
                for piece in range(channel, channel + depth, _DEPTH):
                    size = min(_DEPTH, channel + depth - piece)
                    for p in range(0, rows * plan.tile_columns, COLUMNS):
                        for block in range(begin, end):
                            weight = element * plan.kernel_pitch + (phase * blocks + block) * plan.block_pitch
                            target = (
                                element * pitch + phase * phase_pitch + (block - begin) * ROWS * plan.pitch
                            )
                            multiply_rows(
                                kernels,
                                weight + piece * ROWS,
                                1,
                                steps,
                                size,
                                sources,
                                element * plan.source_pitch + p,
                                offsets,
                                piece,
                                products,
                                target + p,
                                plan.pitch,
                                piece > channel,
                            )
        first_target, last_target = begin * ROWS, min(end * ROWS, targets)
        store_targets(
            products,
            pitch,
            phase_pitch,
            out,
            bias,
            lines,
            plan,
            by_x,
            first_row,
            rows,
            first_target,
            last_target,
        )
        unit = take_turn(turns)


@functools.lru_cache(maxsize=256)
def _plan(shape: Geometry, by_x: bool) -> tuple[Plan, np.ndarray, np.ndarray]:
    """Of tiles of the gradient of out by_x; or of tiles of x, twice as large, with channels of each phase.

    With it what multiply_rows steps by, down the weights and the transformed tiles.
    """
    height, width = shape.out_size[1:]
    if by_x:
        step, size, padding = TILE, (height, width), (0, 0)
        channels = (shape.kernels, PHASES * ROWS * register_blocks(shape.channels))
    else:
        step, size, padding = 2 * TILE, (2 * height, 2 * width), (1, 1)
        channels = (PHASES * shape.channels, shape.kernels)
    most_tiles = winograd_plan.tiles_of_block(winograd_plan.BLOCK_FLOATS, ELEMENTS, channels)
    batch = shape.batch * shape.out_size[0]
    plan = winograd_plan.make_plan(step, batch, channels, size, padding, most_tiles)
    line = max(plan.line, 2 * TILE * LANES * -(-plan.tile_columns // LANES)) if by_x else plan.line
    plan = plan._replace(elements=ELEMENTS, line=line, rows=plan.rows + line - plan.line)
    steps, _ = winograd_plan.counts(_DEPTH)
    return plan, steps, winograd_plan.offsets(plan)


def _targets(shape: Geometry, by_x: bool) -> int:
    return shape.channels if by_x else shape.kernels


def _parts(shape: Geometry, plan: Plan, by_x: bool) -> int:
    """Into how many parts the target channels are divided, to give every thread work."""
    return winograd_plan.target_parts(plan, shape.batch * shape.out_size[0], _targets(shape, by_x))


def _part_size(shape: Geometry, plan: Plan, by_x: bool, parts: int) -> int:
    """Workspace floats of one thread."""
    blocks = -(-register_blocks(_targets(shape, by_x)) // parts) * (PHASES if by_x else 1)
    tiles = plan.source_pitch + winograd_plan.target_pitch(plan, blocks)
    return 2 * TILE * plan.line + plan.rows + ELEMENTS * tiles


def _convolve(
    shape: Geometry,
    source: Planes,
    weight: np.ndarray,
    bias: np.ndarray,
    out: Planes,
    workspace: np.ndarray,
    by_x: bool,
) -> None:
    """Transform the weights, then share the blocks of all images out to the threads."""
    plan, steps, offsets = _plan(shape, by_x)
    kernels = kernels_of(weight, by_x)
    weights, workspace = np.split(workspace, [ELEMENTS * plan.kernel_pitch])
    channels, blocks = source.starts.shape[1], register_blocks(_targets(shape, by_x))
    phase_pitch = blocks * plan.block_pitch if by_x else channels * ROWS
    run_parallel(
        transform_weights,
        [
            (kernels, weights, plan, channels, phase_pitch, first, last)
            for first, last in shares(blocks, threads())
        ],
    )
    parts = _parts(shape, plan, by_x)
    turns, units = new_turns(), -(-len(source.starts) * plan.tile_rows // plan.block_rows) * parts
    size = _part_size(shape, plan, by_x, parts)
    check_workspace(workspace, size)
    spaces = [workspace[i * size : (i + 1) * size] for i in range(min(threads(), workspace.size // size))]
    run_parallel(
        _convolve_units,
        [
            (source, weights, bias, out, space, steps, offsets, plan, by_x, parts, turns, units)
            for space in spaces[:units]
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
    _convolve(shape, source, weight, bias, target, workspace, by_x=False)


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
    _convolve(shape, source, weight, bias, target, workspace, by_x=True)


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that both need, for the number of threads set now."""
    sizes = []
    for by_x in (False, True):
        plan, _, _ = _plan(shape, by_x)
        parts = _parts(shape, plan, by_x)
        sizes.append(ELEMENTS * plan.kernel_pitch + threads() * _part_size(shape, plan, by_x, parts))
    return max(sizes)
