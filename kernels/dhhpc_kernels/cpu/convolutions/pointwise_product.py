"""A pointwise convolution as a matrix product: each output pixel from the same pixel of the source channels.

The pixels of all images are the product's columns. A chunk of them, of all source channels, is copied into
panels in the second-level cache, and each block of rows goes over all of these: so the weights are read once
a chunk, one after the other, and a channel's pixels are written one after the other as well.
"""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.pointwise_tile import multiply_block
from dhhpc_kernels.cpu.microkernel import HEIGHT, LINE, STEPS, WIDTH
from dhhpc_kernels.cpu.panels import pack_panels
from dhhpc_kernels.cpu.vector_moves import copy_width, stream_width
from dhhpc_kernels.turns import take_turn

F = np.float32


class Plan(NamedTuple):
    """The product's sizes, and how it is cut for the threads."""

    images: int
    groups: int
    channels: int  # of the source, a group
    targets: int  # channels of out, a group
    pixels: int  # of an image
    depth: int  # the channels, rounded up to whole STEPS
    chunk: int  # pixels, whole panels
    rows: int  # targets, whole blocks


def padded_channels(channels: int) -> int:
    return -(-channels // STEPS) * STEPS


def packed_size(plan: Plan) -> int:
    """Floats of the packed weights and biases."""
    return plan.groups * -(-plan.targets // HEIGHT) * HEIGHT * (plan.depth + 1)


def product_workspace(plan: Plan) -> int:
    """Floats that one thread of `multiply_pixels` needs."""
    return plan.chunk * (plan.depth + HEIGHT) + LINE


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
def _gather(
    source: np.ndarray,
    group: int,
    plan: Plan,
    start: int,
    count: int,
    panels: np.ndarray,
) -> None:
    """Copy `count` pixels, counted from `start` over all images, of a group's channels into panels."""
    pixels, channels, depth = plan.pixels, plan.channels, plan.depth
    image_pitch, size = plan.groups * channels * pixels, depth * WIDTH
    first = 0  # pixel of the chunk
    while first < count:
        image, pixel = divmod(start + first, pixels)
        begin = image * image_pitch + group * channels * pixels + pixel
        panel = first // WIDTH
        whole = min(pixels - pixel, count - first) // WIDTH
        if whole:
            for k in range(channels):
                for w in range(whole):
                    copy_width(source, begin + k * pixels + w * WIDTH, panels, (panel + w) * size + k * WIDTH)
            first += whole * WIDTH
            continue
        j = 0
        while j < WIDTH:
            take = min(pixels - pixel, count - first, WIDTH - j)
            for k in range(channels):
                for i in range(take):
                    panels[panel * size + k * WIDTH + j + i] = source[begin + k * pixels + i]
            j += take
            first += take
            if first == count:
                for k in range(channels):
                    for i in range(j, WIDTH):
                        panels[panel * size + k * WIDTH + i] = F(0)
                break
            image, pixel = divmod(start + first, pixels)
            begin = image * image_pitch + group * channels * pixels + pixel
    for panel in range(-(-count // WIDTH)):
        for i in range(channels * WIDTH, depth * WIDTH):
            panels[panel * size + i] = F(0)


@compile_kernel
def _scatter(
    block: np.ndarray,
    place: int,
    pitch: int,
    out: np.ndarray,
    channel: int,
    rows: int,
    pixels: int,
    image_pitch: int,
    start: int,
    count: int,
) -> None:
    """Write `count` columns of a block's rows to pixels counted from `start` over all images."""
    image, pixel = divmod(start, pixels)
    done = 0
    while done < count:
        take = min(pixels - pixel, count - done)
        begin = image * image_pitch + channel * pixels + pixel
        for i in range(rows):
            for j in range(take):
                out[begin + i * pixels + j] = block[place + i * pitch + done + j]
        done += take
        image, pixel = image + 1, 0


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

    source and out: flat. packed: `pack_weights`'s. past_caches: every WIDTH pixels of out begin with a cache
    line, and nobody finds them in the caches later. workspace: `product_workspace`.
    """
    pixels, targets, depth, chunk = plan.pixels, plan.targets, plan.depth, plan.chunk
    blocks, steps = -(-targets // HEIGHT), depth // STEPS
    parts = -(-targets // plan.rows)
    total = plan.images * pixels
    chunks = -(-total // chunk)
    out_pitch, source_pitch = plan.groups * targets * pixels, plan.groups * plan.channels * pixels
    biases = packed[plan.groups * blocks * HEIGHT * depth :]
    aligned = workspace[-(workspace.ctypes.data // 4) % LINE :]
    block, panels = aligned[: HEIGHT * chunk], aligned[HEIGHT * chunk :]
    panel = depth * WIDTH
    places, later = np.empty(chunk // WIDTH, np.int64), np.empty(chunk // WIDTH, np.int64)
    unit = take_turn(turns)
    while unit < units:
        following = take_turn(turns)
        group, here = divmod(unit, chunks * parts)
        start, part = here // parts * chunk, here % parts
        count = min(chunk, total - start)
        windows = -(-count // WIDTH)
        next_group, there = divmod(min(following, units - 1), chunks * parts)
        next_start = there // parts * chunk
        for w in range(windows):
            image, pixel = divmod(start + w * WIDTH, pixels)
            inside = pixel + WIDTH <= pixels
            places[w] = image * out_pitch + group * targets * pixels + pixel if inside else -1
            image, pixel = divmod(min(next_start + w * WIDTH, total - 1), pixels)
            later[w] = image * source_pitch + next_group * plan.channels * pixels + pixel
        _gather(source, group, plan, start, count, panels)
        first = part * plan.rows // HEIGHT
        for number in range(first, min(blocks, first + plan.rows // HEIGHT)):
            row, channel = group * blocks + number, number * HEIGHT
            rows = min(HEIGHT, targets - channel)
            # The first blocks fetch what the following unit gathers, some channels each.
            fetched = (number - first) * steps
            fetches = fetched < plan.channels and following < units
            for w in range(windows):
                ahead, ahead_pitch = (later[w] + fetched * pixels, pixels) if fetches else (0, 0)
                if places[w] >= 0 and rows == HEIGHT and not past_caches:
                    multiply_block(
                        packed,
                        row * HEIGHT * depth,
                        panels,
                        w * panel,
                        depth,
                        biases,
                        row * HEIGHT,
                        out,
                        places[w] + channel * pixels,
                        pixels,
                        source,
                        ahead,
                        ahead_pitch,
                    )
                    continue
                multiply_block(
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
                if not past_caches:
                    column = start + w * WIDTH
                    _scatter(
                        block,
                        w * WIDTH,
                        chunk,
                        out,
                        group * targets + channel,
                        rows,
                        pixels,
                        out_pitch,
                        column,
                        min(WIDTH, total - column),
                    )
            if past_caches:
                for i in range(rows):
                    for w in range(windows):
                        stream_width(block, i * chunk + w * WIDTH, out, places[w] + (channel + i) * pixels)
        unit = following
