"""Packing a product's factors into panels, which its inner loop reads one float after the other."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.microkernel import HEIGHT, LANES, LINE, STEPS, WIDTH
from dhhpc_kernels.cpu.vector_moves import copy_columns, copy_height, copy_width, transpose

F = np.float32

_PIECE = 64  # numbers of a line that are packed at once


def panels(lines: int, width: int) -> int:
    """Panels of `width` lines that hold so many."""
    return -(-lines // width)


def padded_depth(depth: int) -> int:
    """A panel's depth for the block of two packed factors, which takes STEPS at once."""
    return -(-depth // STEPS) * STEPS


@compile_kernel
def pack_panels(
    source: np.ndarray,
    start: int,
    line_step: int,
    depth_step: int,
    lines: int,
    depth: int,
    width: int,
    packed: np.ndarray,
    place: int,
    pitch: int,
    first: int,
    last: int,
) -> None:
    """packed[place + p*pitch + k*width + i] = source[start + (p*width + i)*line_step + k*depth_step].

    p from first to last, k below depth, i below width, which is COLUMNS, HEIGHT or WIDTH. Zeros past the last
    line, and from depth to the panel's end.
    """
    if line_step == 1:
        whole = max(first, min(last, lines // width))
        # Some of the depth for all panels: so whole cache lines of them are written, and lines read on.
        for top in range(0, depth, LINE):
            for p in range(first, whole):
                for k in range(top, min(top + LINE, depth)):
                    here, there = start + k * depth_step + p * width, place + p * pitch + k * width
                    if width == HEIGHT:
                        copy_height(source, here, packed, there)
                    elif width == WIDTH:
                        copy_width(source, here, packed, there)
                    else:
                        copy_columns(source, here, packed, there)
    elif depth_step == 1:
        # Squares of whole vectors, which may reach into the following panel's lines.
        vectors = -(-width // LANES)
        reach = vectors * LANES
        whole = max(first, min(last, (lines - reach) // width + 1))
        for p in range(first, whole):
            begin, target = start + p * width * line_step, place + p * pitch
            # What the last square writes beyond its lines would spoil the panel behind.
            done = (depth if reach == width else depth - 1) // LANES * LANES
            for k in range(0, done, LANES):
                # The last vector first: what it writes beyond its line is the next line's begin.
                for v in range(reach - LANES, -1, -LANES):
                    transpose(
                        source, begin + v * line_step + k, line_step, packed, target + k * width + v, width
                    )
            for i in range(width):
                for k in range(done, depth):
                    packed[target + k * width + i] = source[begin + i * line_step + k]
    else:
        whole = first
    for p in range(whole, last):
        full = min(width, lines - p * width)
        begin, target = start + p * width * line_step, place + p * pitch
        # A piece of each line at once: they lie so far apart that few stay in the cache.
        for top in range(0, depth, _PIECE):
            for i in range(width):
                for k in range(top, min(top + _PIECE, depth)):
                    value = source[begin + i * line_step + k * depth_step] if i < full else F(0)
                    packed[target + k * width + i] = value
    for p in range(first, last):
        packed[place + p * pitch + depth * width : place + (p + 1) * pitch] = F(0)
