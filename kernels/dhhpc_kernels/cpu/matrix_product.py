"""Matrix products on the register-blocked inner loop, with the same bits on any number of threads.

Both factors are packed into panels, a piece of their common dimension at a time, so that the inner loop reads
them one after the other from the caches (Goto and van de Geijn 2008). BLAS splits sums in another way on each
number of threads; here each number of the result is summed in one order.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.microkernel import COLUMNS, LINE, ROWS, multiply_rows
from dhhpc_kernels.cpu.vector_moves import copy_rows
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, run_shares, shares, threads

F = np.float32

DEPTH = 512  # of a piece: a panel of columns stays in the second-level cache, one of rows in the first
HEIGHT = 2048  # rows packed at once, which bounds the workspace
_BAND = 96 // ROWS  # panels of rows that stay in the second-level cache while the columns go by
_PIECE = 64  # numbers of a line that are packed at once
_TOGETHER = 2 if COLUMNS % LINE else 1  # panels of columns that make up whole cache lines of the result
# Below this many multiplications a share takes about as long as handing it to a thread.
_LEAST_PRODUCTS = 2**20


def panels(lines: int, width: int) -> int:
    """Panels of `width` lines that hold so many."""
    return -(-lines // width)


def row_steps(depth: int) -> np.ndarray:
    """The offsets by which multiply_tile walks down a packed panel of columns."""
    return np.arange(depth, dtype=np.int64) * COLUMNS


@compile_kernel
def pack_panels(
    source: np.ndarray,
    line_step: int,
    depth_step: int,
    lines: int,
    depth: int,
    width: int,
    packed: np.ndarray,
    first: int,
    last: int,
) -> None:
    """packed[p, k, i] = source[(p*width + i)*line_step + k*depth_step], 0 past the last line; both flat.

    p from first to last, k below depth, i below width, which is ROWS or COLUMNS.
    """
    if line_step == 1:
        # Whole cache lines of packed panels, and long pieces of the source's rows, which lie pages apart.
        whole = min(last, lines // width)
        together, deep = max(1, _PIECE // width), max(1, LINE // width)
        for start in range(first, whole, together):
            for top in range(0, depth, deep):
                for p in range(start, min(start + together, whole)):
                    for k in range(top, min(top + deep, depth)):
                        for i in range(0, width, ROWS):
                            copy_rows(
                                source, k * depth_step + p * width + i, packed, (p * depth + k) * width + i
                            )
        first = max(first, whole)
    for p in range(first, last):
        full = min(width, lines - p * width)
        # A piece of each line at once: they lie so far apart that few stay in the cache.
        for start in range(0, depth, _PIECE):
            stop = min(start + _PIECE, depth)
            for i in range(width):
                target = packed[(p * depth + start) * width + i : (p * depth + stop) * width : width]
                begin = (p * width + i) * line_step
                if i >= full:
                    target[:] = F(0)
                elif depth_step == 1:
                    line = source[begin + start : begin + stop]
                    for k in range(line.size):
                        target[k] = line[k]
                else:
                    for k in range(target.size):
                        target[k] = source[begin + (start + k) * depth_step]


@compile_kernel
def _multiply(
    left: np.ndarray,
    right: np.ndarray,
    steps: np.ndarray,
    offsets: np.ndarray,
    rows: int,
    columns: int,
    out: np.ndarray,
    pitch: int,
    add: bool,
    first_row: int,
    last_row: int,
    first_column: int,
    last_column: int,
) -> None:
    """out[i*pitch + j] = or += the product of two packed pieces, over panels of rows and columns."""
    depth = offsets.size
    tile = np.empty(ROWS * COLUMNS, np.float32)
    for band in range(first_row, last_row, _BAND):
        for pair in range(first_column, last_column, _TOGETHER):
            for p in range(band, min(band + _BAND, last_row)):
                for q in range(pair, min(pair + _TOGETHER, last_column)):
                    a, b, place = p * ROWS * depth, q * COLUMNS * depth, p * ROWS * pitch + q * COLUMNS
                    height, width = min(ROWS, rows - p * ROWS), min(COLUMNS, columns - q * COLUMNS)
                    if height == ROWS and width == COLUMNS:
                        multiply_rows(left, a, 1, steps, depth, right, b, offsets, 0, out, place, pitch, add)
                        continue
                    multiply_rows(left, a, 1, steps, depth, right, b, offsets, 0, tile, 0, COLUMNS, False)
                    for i in range(height):
                        target = out[place + i * pitch : place + i * pitch + width]
                        sums = tile[i * COLUMNS : i * COLUMNS + width]
                        if add:
                            for j in range(width):
                                target[j] += sums[j]
                        else:
                            for j in range(width):
                                target[j] = sums[j]


def matrix_product_workspace(rows: int, depth: int, columns: int) -> int:
    """The float32 numbers that matrix_product needs as workspace."""
    lines = panels(min(rows, HEIGHT), ROWS) * ROWS + panels(columns, COLUMNS) * COLUMNS
    return min(depth, DEPTH) * lines


def matrix_product(a: np.ndarray, b: np.ndarray, out: np.ndarray, workspace: np.ndarray) -> None:
    """out (M,N) = a (M,K) times b (K,N), float32, K at least 1.

    a and b may be transposed or sliced views; out's rows are contiguous.
    """
    (rows, depth), columns = a.shape, b.shape[1]
    check_workspace(workspace, matrix_product_workspace(rows, depth, columns))
    piece = min(depth, DEPTH)
    row_panels, column_panels = panels(min(rows, HEIGHT), ROWS), panels(columns, COLUMNS)
    left = workspace[: row_panels * ROWS * piece]
    right = workspace[left.size : left.size + column_panels * COLUMNS * piece]
    for k in range(0, depth, DEPTH):
        size = min(DEPTH, depth - k)
        _pack(b[k : k + size].T, COLUMNS, right)
        steps, offsets = np.arange(size) * ROWS, row_steps(size)
        for row in range(0, rows, HEIGHT):
            height = min(HEIGHT, rows - row)
            _pack(a[row : row + height, k : k + size], ROWS, left)
            target = flat(out[row : row + height])
            arguments = (left, right, steps, offsets, height, columns, target, out.strides[0] // 4, k > 0)
            _share_multiply(arguments, panels(height, ROWS), column_panels, height * size * columns)


def flat(view: np.ndarray) -> np.ndarray:
    """The memory from a matrix's first number to its last, as a vector. No step may be negative."""
    span = 1 + sum((count - 1) * stride for count, stride in zip(view.shape, view.strides, strict=True)) // 4
    return np.lib.stride_tricks.as_strided(view, (span,), (4,))


def _pack(lines: np.ndarray, width: int, packed: np.ndarray) -> None:
    count, depth = lines.shape
    line_step, depth_step = (stride // 4 for stride in lines.strides)
    run_shares(
        pack_panels,
        panels(count, width),
        2 * lines.size,
        flat(lines),
        line_step,
        depth_step,
        count,
        depth,
        width,
        packed,
    )


def _share_multiply(arguments: tuple, row_panels: int, column_panels: int, products: int) -> None:
    """Share the larger side out to the threads."""
    parts = threads() if products >= _LEAST_PRODUCTS else 1
    if row_panels > column_panels:
        calls = [(*arguments, *share, 0, column_panels) for share in shares(row_panels, parts)]
    else:
        calls = [(*arguments, 0, row_panels, *share) for share in shares(column_panels, parts)]
    run_parallel(_multiply, calls)
