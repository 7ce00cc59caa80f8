"""Pixels at a stride in the planes of an array: into panels of a product, and from its results."""

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.microkernel import LANES, WIDTH
from dhhpc_kernels.cpu.vector_moves import copy_lanes, copy_second_runs, copy_width, interleave, stream

F = np.float32


class Lattice(NamedTuple):
    """Where the pixels of a grid lie in a channel of an array.

    Pixels that all follow each other are one row of the grid, however many rows the image has.
    """

    size: int  # floats of a channel
    columns: int  # of the grid
    starts: np.ndarray  # (rows of the grid,) where each row begins in the channel
    step: int  # from a pixel to the next, and from a row to the next of the same depth
    plane_rows: int  # rows of the grid in one plane
    height: int  # of a plane
    width: int


@compile_kernel
def gather(
    source: np.ndarray,
    lattice: Lattice,
    channels: int,
    first: int,
    image_pitch: int,
    start: int,
    count: int,
    panels: np.ndarray,
    panel_size: int,
) -> None:
    """Copy `count` pixels, counted from `start` over all images, of some channels into panels of WIDTH.

    first: where the first channel of image 0 begins. Zeros fill the last panel, and panels behind their last
    channel; panel_size is channels*WIDTH + LANES at least, for whole vectors.
    """
    starts, columns, size, step = lattice.starts, lattice.columns, lattice.size, lattice.step
    grid_rows = len(starts)
    # Pieces of the grid's rows, each in one panel: where they begin, where they go, and pixels.
    begins, places = np.empty(count, np.int64), np.empty(count, np.int64)
    takes = np.empty(count, np.int64)
    image, pixel = divmod(start, grid_rows * columns)
    row, column = divmod(pixel, columns)
    pieces = done = farthest = 0
    while done < count:
        panel, line = done // WIDTH, done % WIDTH
        take = min(columns - column, count - done, WIDTH - line)
        begins[pieces] = first + image * image_pitch + starts[row] + column * step
        places[pieces], takes[pieces] = panel * panel_size + line, take
        farthest = max(farthest, begins[pieces] + step * -(-take // LANES) * LANES)
        pieces += 1
        done += take
        column += take
        if column == columns:
            column = 0
            row += 1
            if row == grid_rows:
                row = 0
                image += 1
    whole_vectors = step <= 2 and farthest + (channels - 1) * size <= source.size
    if whole_vectors and step == 2:
        # What is written too much is written over by what follows.
        runs, count_of_runs = np.empty(3 * count, np.int64), 0
        for piece in range(pieces):
            for i in range(0, takes[piece], LANES):
                runs[3 * count_of_runs] = begins[piece] + 2 * i
                runs[3 * count_of_runs + 1] = places[piece] + i
                runs[3 * count_of_runs + 2] = LANES
                count_of_runs += 1
        for k in range(channels):
            copy_second_runs(source, k * size, runs, 0, count_of_runs, panels, k * WIDTH, k * size)
    else:
        for k in range(channels):
            for piece in range(pieces):
                here, there, take = begins[piece] + k * size, places[piece] + k * WIDTH, takes[piece]
                if whole_vectors and take == WIDTH:
                    copy_width(source, here, panels, there)
                elif whole_vectors:
                    for i in range(0, take, LANES):
                        copy_lanes(source, here + i, panels, there + i)
                else:
                    for i in range(take):
                        panels[there + i] = source[here + i * step]
    last, inside = (count - 1) // WIDTH * panel_size, (count - 1) % WIDTH + 1
    for line in range(last, last + channels * WIDTH, WIDTH):
        for i in range(line + inside, line + WIDTH):
            panels[i] = F(0)
    for panel in range(0, last + 1, panel_size):
        for i in range(panel + channels * WIDTH, panel + panel_size):
            panels[i] = F(0)


@compile_kernel
def scatter(
    block: np.ndarray,
    place: int,
    pitch: int,
    rows: int,
    out: np.ndarray,
    size: int,
    first: int,
    image_pitch: int,
    start: int,
    count: int,
) -> None:
    """Write `count` columns of a block's rows to pixels counted from `start`, that follow each other.

    size: of a channel. first: where the first row's channel of image 0 begins.
    """
    image, pixel = divmod(start, size)
    done = 0
    while done < count:
        take = min(size - pixel, count - done)
        begin = first + image * image_pitch + pixel
        for i in range(rows):
            for j in range(take):
                out[begin + i * size + j] = block[place + i * pitch + done + j]
        done += take
        image, pixel = image + 1, 0


@compile_kernel
def spread(
    block: np.ndarray,
    pitch: int,
    rows: int,
    between: np.ndarray,
    out: np.ndarray,
    lattice: Lattice,
    first: int,
    image_pitch: int,
    start: int,
    count: int,
) -> None:
    """Write `count` columns of a block's rows to pixels of a lattice, and around them `between`, one a row.

    LANES floats behind the block's rows are overwritten.
    """
    starts, columns, size, step = lattice.starts, lattice.columns, lattice.size, lattice.step
    width = lattice.width
    grid_rows, line = len(starts), rows * pitch
    first_image, pixel = divmod(start, grid_rows * columns)
    first_row, first_column = divmod(pixel, columns)
    for i in range(rows):
        value = between[i]
        for j in range(line, line + LANES):
            block[j] = value
        image, row, column = first_image, first_row, first_column
        here, end = i * pitch, i * pitch + count
        while here < end:
            take = min(columns - column, end - here)
            begin = first + image * image_pitch + i * size + starts[row] + column * step
            span = min(take * step, width - column * step)
            done = span // 2 // LANES * LANES if step == 2 else 0
            for j in range(0, done, LANES):
                interleave(block, here + j, line, F(0), out, begin + 2 * j)
            for j in range(done * step, span):
                out[begin + j] = value
            for j in range(done, take):
                out[begin + j * step] = block[here + j]
            for below in range(1, min(step, lattice.height - row % lattice.plane_rows * step)):
                for j in range(begin + below * width, begin + below * width + span):
                    out[j] = value
            here += take
            column = 0
            row += 1
            if row == grid_rows:
                row = 0
                image += 1


@compile_part
def spread_past_caches(
    block: np.ndarray,
    pitch: int,
    rows: int,
    between: np.ndarray,
    out: np.ndarray,
    lattice: Lattice,
    first: int,
    image_pitch: int,
    start: int,
    count: int,
    lines: np.ndarray,
) -> None:
    """As `spread` at a step of 2, for whole rows of the grid, past the caches.

    Both rows of its squares together are whole cache lines, and out begins with one.
    lines: 4 * count + 2 * LANES floats.
    """
    starts, columns, size, width = lattice.starts, lattice.columns, lattice.size, lattice.width
    grid_rows, line = len(starts), rows * pitch
    for i in range(rows):
        value = between[i]
        for j in range(line, line + LANES):
            block[j] = value
        image, row = divmod(start // columns, grid_rows)
        done = 0
        while done < count:
            some = min(grid_rows - row, (count - done) // columns)
            here, there = i * pitch + done, 0
            for _ in range(some):
                # Whole vectors: what they write too much belongs to the row below.
                for j in range(0, columns, LANES):
                    interleave(block, here + j, line, F(0), lines, there + 2 * j)
                for j in range(there + width, there + 2 * width):
                    lines[j] = value
                here += columns
                there += 2 * width
            begin = first + image * image_pitch + i * size + starts[row]
            for j in range(0, there, LANES):
                stream(lines, j, F(0), out, begin + j)
            done += some * columns
            image, row = image + 1, 0
