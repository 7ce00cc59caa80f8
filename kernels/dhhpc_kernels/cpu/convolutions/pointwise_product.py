"""A pointwise convolution as a matrix product: each output pixel from the same pixel of the source channels.

The pixels of all images are the product's columns. A chunk of them, of all source channels, is copied into
panels, and each block of rows goes over all of these: so the weights are read once a chunk, one after the
other, and a channel's pixels are written one after the other as well.
"""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.lattices import Lattice, gather, scatter, spread, spread_past_caches
from dhhpc_kernels.cpu.convolutions.pointwise_tile import multiply_channels
from dhhpc_kernels.cpu.microkernel import HEIGHT, LINE, STEPS, WIDTH
from dhhpc_kernels.cpu.panels import pack_panels
from dhhpc_kernels.cpu.vector_moves import stream_width
from dhhpc_kernels.turns import take_turn

F = np.float32


class Plan(NamedTuple):
    """The product's sizes, and how it is cut for the threads."""

    images: int
    groups: int
    channels: int  # of the source, a group
    targets: int  # channels of out, a group
    source: Lattice
    target: Lattice
    pixels: int  # of an image's grid
    depth: int  # the channels, rounded up to whole STEPS
    chunk: int  # pixels, whole panels
    rows: int  # targets, whole blocks


def packed_size(plan: Plan) -> int:
    """Floats of the packed weights and biases."""
    return plan.groups * -(-plan.targets // HEIGHT) * HEIGHT * (plan.depth + 1)


def product_workspace(plan: Plan) -> int:
    """Floats that one thread of `multiply_pixels` needs: panels, each with a line behind it; a block of the
    chunk's sums; the chunk's squares; and a line to align them all, another behind the block, two behind the
    squares."""
    return plan.chunk * (plan.depth + HEIGHT + 4) + (plan.chunk // WIDTH + 4) * LINE


@compile_kernel
def pack_weights(
    weights: np.ndarray,
    target_step: int,
    channel_step: int,
    bias: np.ndarray,
    packed: np.ndarray,
    plan: Plan,
    first: int,
    last: int,
) -> None:
    """Blocks first to last of each group's weights[g*channels*targets + m*target_step + k*channel_step].

    packed: for each group, block and k of `depth` the HEIGHT weights, zeros where there are none; then the
    biases of all groups' blocks. bias: one value a target, or empty.
    """
    targets, channels, depth = plan.targets, plan.channels, plan.depth
    blocks = -(-targets // HEIGHT)
    for g in range(plan.groups):
        pack_panels(
            weights,
            g * channels * targets,
            target_step,
            channel_step,
            targets,
            channels,
            HEIGHT,
            packed,
            g * blocks * HEIGHT * depth,
            HEIGHT * depth,
            first,
            last,
        )
        biases = packed[(plan.groups * depth + g) * blocks * HEIGHT :]
        for m in range(first * HEIGHT, last * HEIGHT):
            biases[m] = bias[g * targets + m] if bias.size and m < targets else F(0)


@compile_kernel
def multiply_pixels(
    source: np.ndarray,
    packed: np.ndarray,
    out: np.ndarray,
    past_caches: bool,
    workspace: np.ndarray,
    plan: Plan,
    turns: np.ndarray,
    units: int,
) -> None:
    """Units of out, in turn with other threads: a group's chunks of pixels, and of each some target channels.

    source and out: flat. packed: `pack_weights`'s. past_caches: every WIDTH pixels of out, or every chunk's
    squares around them, begin with a cache line, and nobody finds them in the caches later.
    workspace: `product_workspace`.
    """
    pixels, targets, depth, chunk = plan.pixels, plan.targets, plan.depth, plan.chunk
    blocks, steps = -(-targets // HEIGHT), depth // STEPS
    parts = -(-targets // plan.rows)
    total = plan.images * pixels
    chunks = -(-total // chunk)
    lattice, target_size = plan.source, plan.target.size
    source_size, columns, starts = lattice.size, lattice.columns, lattice.starts
    out_pitch, source_pitch = plan.groups * targets * target_size, plan.groups * plan.channels * source_size
    biases = packed[plan.groups * blocks * HEIGHT * depth :]
    aligned = workspace[-(workspace.ctypes.data // 4) % LINE :]
    block, rest = aligned[: HEIGHT * chunk + LINE], aligned[HEIGHT * chunk + LINE :]
    squares, panels = rest[: 4 * chunk + 2 * LINE], rest[4 * chunk + 2 * LINE :]
    panel = depth * WIDTH + LINE
    lines = WIDTH * lattice.step // LINE  # of a window
    strided = plan.target.step > 1
    through_block = past_caches or strided
    places, later = np.empty(chunk // WIDTH, np.int64), np.empty(chunk // WIDTH, np.int64)
    unit = take_turn(turns)
    while unit < units:
        following = take_turn(turns)
        group, here = divmod(unit, chunks * parts)
        start, part = here // parts * chunk, here % parts
        count = min(chunk, total - start)
        windows = -(-count // WIDTH)
        next_group, next_here = divmod(min(following, units - 1), chunks * parts)
        next_start = next_here // parts * chunk
        for w in range(windows):
            image, pixel = divmod(start + w * WIDTH, pixels)
            inside = pixel + WIDTH <= pixels
            places[w] = image * out_pitch + group * targets * target_size + pixel if inside else -1
            image, pixel = divmod(min(next_start + w * WIDTH, total - 1), pixels)
            in_channel = starts[pixel // columns] + pixel % columns * lattice.step
            later[w] = image * source_pitch + next_group * plan.channels * source_size + in_channel
        source_origin = group * plan.channels * source_size
        gather(source, lattice, plan.channels, source_origin, source_pitch, start, count, panels, panel)
        first = part * plan.rows // HEIGHT
        for number in range(first, min(blocks, first + plan.rows // HEIGHT)):
            row, channel = group * blocks + number, number * HEIGHT
            rows = min(HEIGHT, targets - channel)
            origin = (group * targets + channel) * target_size
            # The first blocks fetch what the following unit gathers, of some channels a line of each window.
            line, quarter = divmod(number - first, STEPS)
            fetches = line < lines and following < units
            fetched = quarter * steps * source_size + line * LINE
            for w in range(windows):
                ahead, ahead_pitch = (later[w] + fetched, source_size) if fetches else (0, 0)
                # Two calls: to choose between the arrays would count references, a tenth of the time.
                if places[w] >= 0 and rows == HEIGHT and not through_block:
                    multiply_channels(
                        packed,
                        row * HEIGHT * depth,
                        panels,
                        w * panel,
                        depth,
                        biases,
                        row * HEIGHT,
                        out,
                        places[w] + channel * target_size,
                        target_size,
                        source,
                        ahead,
                        ahead_pitch,
                    )
                    continue
                multiply_channels(
                    packed,
                    row * HEIGHT * depth,
                    panels,
                    w * panel,
                    depth,
                    biases,
                    row * HEIGHT,
                    block,
                    w * WIDTH,
                    chunk,
                    source,
                    ahead,
                    ahead_pitch,
                )
                if not through_block:
                    column = start + w * WIDTH
                    width = min(WIDTH, total - column)
                    scatter(block, w * WIDTH, chunk, rows, out, target_size, origin, out_pitch, column, width)
            if strided:
                between = biases[row * HEIGHT :]
                if past_caches:
                    spread_past_caches(
                        block,
                        chunk,
                        rows,
                        between,
                        out,
                        plan.target,
                        origin,
                        out_pitch,
                        start,
                        count,
                        squares,
                    )
                else:
                    spread(block, chunk, rows, between, out, plan.target, origin, out_pitch, start, count)
            elif past_caches:
                for i in range(rows):
                    for w in range(windows):
                        place = places[w] + (channel + i) * target_size
                        stream_width(block, i * chunk + w * WIDTH, out, place)
        unit = following
