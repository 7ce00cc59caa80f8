"""The gradient of a Winograd convolution by its weights, the transpose of the forward algorithm.

The gradient of the output is transformed as the output is transformed back; for each element of a tile the
products with the transformed source are summed over all tiles, and the sums are transformed back to 3x3.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.geometry import Planes
from dhhpc_kernels.cpu.microkernel import LANES, ROWS, VECTORS, add_products
from dhhpc_kernels.cpu.winograd import Plan, aligned, split_rows, transform_sources
from dhhpc_kernels.cpu.winograd_transforms import (
    transform_gradient_2,
    transform_gradient_4,
    transform_kernel_gradient_2,
    transform_kernel_gradient_4,
)

F = np.float32

_GROUP = 4  # register blocks whose rows stay in the first-level cache while the sources pass by


def sums_size(plan: Plan) -> int:
    """Floats of the sums over all tiles, with a vector to spare."""
    targets = -(-plan.target_channels // ROWS) * ROWS
    return aligned(plan.elements * targets * (plan.source_channels + VECTORS) + LANES)


@compile_kernel
def _clear_tails(transformed: np.ndarray, plan: Plan, pitch: int, tiles: int, first: int, last: int) -> None:
    """Zero the lanes past the last tile, which whole vectors read."""
    end = -(-tiles // LANES) * LANES
    for element in range(plan.elements):
        for channel in range(first, last):
            place = element * pitch + channel * plan.pitch
            for t in range(place + tiles, place + end):
                transformed[t] = F(0)


@compile_kernel
def transform_both(
    source: Planes,
    grad_out: Planes,
    sources: np.ndarray,
    gradients: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    gradient_pitch: int,
    first_row: int,
    rows: int,
    first: int,
    last: int,
    first_target: int,
    last_target: int,
) -> None:
    """A block's source channels first to last, and its gradients' channels first_target to last_target."""
    tile = plan.tile
    tiles = rows * plan.tile_columns
    transform_sources(source, sources, workspace, plan, first_row, rows, first, last)
    _clear_tails(sources, plan, plan.source_pitch, tiles, first, last)
    workspace[: plan.line] = F(0)
    for channel in range(first_target, last_target):
        place = channel * plan.pitch
        for row in range(first_row, first_row + rows):
            n, tile_row = divmod(row, plan.tile_rows)
            split_rows(grad_out, grad_out.starts[n, channel], tile_row * tile, tile, 0, workspace, plan)
            for t in range(0, plan.tile_columns, LANES):
                if tile == 4:
                    transform_gradient_4(
                        workspace,
                        plan.line + t,
                        gradients,
                        place + t,
                        4 * plan.phase,
                        plan.phase,
                        gradient_pitch,
                    )
                else:
                    transform_gradient_2(
                        workspace,
                        plan.line + t,
                        gradients,
                        place + t,
                        2 * plan.phase,
                        plan.phase,
                        gradient_pitch,
                    )
            place += plan.tile_columns
    _clear_tails(gradients, plan, gradient_pitch, tiles, first_target, last_target)


@compile_kernel
def add_block(
    sources: np.ndarray,
    gradients: np.ndarray,
    sums: np.ndarray,
    offsets: np.ndarray,
    plan: Plan,
    gradient_pitch: int,
    tiles: int,
    clear: bool,
    first: int,
    last: int,
) -> None:
    """Add a block's products to elements first to last of sums (elements, targets, channels + VECTORS)."""
    channels = plan.source_channels
    blocks = -(-plan.target_channels // ROWS)
    depth = channels + VECTORS
    for element in range(first, last):
        here = element * blocks * ROWS * depth
        if clear:
            sums[here : here + blocks * ROWS * depth] = F(0)
        source = sources[element * plan.source_pitch : (element + 1) * plan.source_pitch]
        for group in range(0, blocks, _GROUP):
            for channel in range(0, channels, VECTORS):
                for block in range(group, min(blocks, group + _GROUP)):
                    add_products(
                        gradients,
                        element * gradient_pitch + block * ROWS * plan.pitch,
                        plan.pitch,
                        source,
                        offsets,
                        channel,
                        tiles,
                        sums,
                        here + block * ROWS * depth + channel,
                        depth,
                    )


@compile_kernel
def finish_gradient(sums: np.ndarray, grad_weight: np.ndarray, plan: Plan, first: int, last: int) -> None:
    """Transform the sums of target channels first to last back to grad_weight (K,C,9)."""
    channels = plan.source_channels
    blocks = -(-plan.target_channels // ROWS)
    depth = channels + VECTORS
    pitch = blocks * ROWS * depth
    result = np.empty(9 * LANES, np.float32)
    for target in range(first, last):
        for channel in range(0, channels, LANES):
            # The last vector begins earlier, so that it ends with the channels.
            start = max(0, min(channel, channels - LANES))
            if plan.tile == 4:
                transform_kernel_gradient_4(sums, target * depth + start, result, 0, pitch, LANES, 0)
            else:
                transform_kernel_gradient_2(sums, target * depth + start, result, 0, pitch, LANES, 0)
            for lane in range(min(LANES, channels - start)):
                for tap in range(9):
                    grad_weight[target, start + lane, tap] = result[tap * LANES + lane]
