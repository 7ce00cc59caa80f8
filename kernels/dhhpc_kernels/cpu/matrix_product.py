"""Matrix products on the register-blocked inner loop, with the same bits on any number of threads.

Both factors are packed into panels, a piece of their common dimension at a time, so that the inner loop reads
them one after the other (Goto and van de Geijn 2008): a panel of rows stays near while some panels of columns
go by, again and again for each panel of rows. BLAS splits sums in another way on each number of threads; here
each number of the result is summed in one order.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.microkernel import HEIGHT, LINE, WIDTH, multiply_packed
from dhhpc_kernels.cpu.panels import pack_panels, padded_depth, panels
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_parallel, run_shares, shares, threads

DEPTH = 1024  # of a piece
_MOST_ROWS = 2048  # packed at once, which bounds the workspace
_CHUNK_FLOATS = 128 * 1024  # of the panels of columns that go by together
# Below this many multiplications a share takes about as long as handing it to a thread.
_LEAST_PRODUCTS = 2**20


@compile_kernel
def _multiply(
    left: np.ndarray,
    right: np.ndarray,
    depth: int,
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
    block = np.empty(HEIGHT * WIDTH, np.float32)
    row_pitch, column_pitch = depth * HEIGHT + LINE, depth * WIDTH + LINE
    chunk = max(2, _CHUNK_FLOATS // (depth * WIDTH))
    for begin in range(first_column, last_column, chunk):
        for p in range(first_row, last_row):
            row, height = p * row_pitch, min(HEIGHT, rows - p * HEIGHT)
            for q in range(begin, min(begin + chunk, last_column)):
                column, width = q * column_pitch, min(WIDTH, columns - q * WIDTH)
                place = p * HEIGHT * pitch + q * WIDTH
                if height == HEIGHT and width == WIDTH:
                    multiply_packed(left, row, right, column, depth, out, place, pitch, add)
                    continue
                multiply_packed(left, row, right, column, depth, block, 0, WIDTH, False)
                for i in range(height):
                    for j in range(width):
                        before = out[place + i * pitch + j] if add else np.float32(0)
                        out[place + i * pitch + j] = before + block[i * WIDTH + j]


def _pitch(depth: int, width: int) -> int:
    """Floats from one packed panel to the next, so that they begin in different sets of the caches."""
    return padded_depth(depth) * width + LINE


def matrix_product_workspace(rows: int, depth: int, columns: int) -> int:
    """The float32 numbers that matrix_product needs as workspace."""
    piece = min(depth, DEPTH)
    left = panels(min(rows, _MOST_ROWS), HEIGHT) * _pitch(piece, HEIGHT)
    return left + panels(columns, WIDTH) * _pitch(piece, WIDTH)


def matrix_product(a: np.ndarray, b: np.ndarray, out: np.ndarray, workspace: np.ndarray) -> None:
    """out (M,N) = a (M,K) times b (K,N), float32, K at least 1.

    a and b may be transposed or sliced views; out's rows are contiguous.
    """
    (rows, depth), columns = a.shape, b.shape[1]
    check_workspace(workspace, matrix_product_workspace(rows, depth, columns))
    right_size = panels(columns, WIDTH) * _pitch(min(depth, DEPTH), WIDTH)
    right, left = workspace[:right_size], workspace[right_size:]
    for k in range(0, depth, DEPTH):
        piece = min(DEPTH, depth - k)
        _pack(b[k : k + piece].T, WIDTH, right)
        for row in range(0, rows, _MOST_ROWS):
            height = min(_MOST_ROWS, rows - row)
            _pack(a[row : row + height, k : k + piece], HEIGHT, left)
            target = flat(out[row : row + height])
            sizes = padded_depth(piece), height, columns
            _share_multiply(left, right, sizes, target, out.strides[0] // 4, k > 0)


def flat(view: np.ndarray) -> np.ndarray:
    """The memory from a matrix's first number to its last, as a vector. No step may be negative."""
    span = 1 + sum((count - 1) * stride for count, stride in zip(view.shape, view.strides, strict=True)) // 4
    return np.lib.stride_tricks.as_strided(view, (span,), (4,))


def _pack(lines: np.ndarray, width: int, packed: np.ndarray) -> None:
    count, depth = lines.shape
    steps = [stride // 4 for stride in lines.strides]
    sizes = count, depth, width
    pitch = _pitch(depth, width)
    run_shares(
        pack_panels, panels(count, width), 2 * lines.size, flat(lines), 0, *steps, *sizes, packed, 0, pitch
    )


def _share_multiply(
    left: np.ndarray, right: np.ndarray, sizes: tuple[int, int, int], out: np.ndarray, pitch: int, add: bool
) -> None:
    """Share the larger side out to the threads. sizes: depth, rows and columns."""
    depth, rows, columns = sizes
    row_panels, column_panels = panels(rows, HEIGHT), panels(columns, WIDTH)
    parts = threads() if depth * rows * columns >= _LEAST_PRODUCTS else 1
    arguments = left, right, depth, rows, columns, out, pitch, add
    if row_panels > column_panels:
        calls = [(*arguments, *share, 0, column_panels) for share in shares(row_panels, parts)]
    else:
        calls = [(*arguments, 0, row_panels, *share) for share in shares(column_panels, parts)]
    run_parallel(_multiply, calls)
