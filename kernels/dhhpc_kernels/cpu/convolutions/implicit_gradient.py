"""The gradient by the weights as a matrix product whose second factor is never built whole.

The rows of the product are kernels, and its columns pairs of a source channel and a tap; it sums over the
pixels of the whole batch. A chunk of columns, a piece of the pixels at a time, is gathered from the source
planes and turned into panels for the inner loop, which reads the gradient by out where it lies.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.blocked_product import DEPTH, multiply_block, tiles
from dhhpc_kernels.cpu.convolutions.geometry import Planes
from dhhpc_kernels.cpu.convolutions.pixel_runs import find_runs, gather_runs, run_tables
from dhhpc_kernels.cpu.convolutions.pixels import Plan
from dhhpc_kernels.cpu.microkernel import COLUMNS, LANES, LINE, ROWS, VECTORS
from dhhpc_kernels.cpu.vector_moves import transpose

F = np.float32

_CHUNK_FLOATS = 112 * 1024  # of a chunk's panels and sums, to stay in the second-level cache
_MOST_PANELS = 384 // COLUMNS  # of a chunk
_MOST_ROWS = 512  # that a chunk is made for
_LINE_PITCH = DEPTH + LINE  # of gathered lines


def weights_chunk(rows: int) -> int:
    """Columns gathered at once, for so many kernels of a group."""
    fitting = _CHUNK_FLOATS // ((DEPTH + min(rows, _MOST_ROWS)) * COLUMNS)
    return max(1, min(_MOST_PANELS, fitting)) * COLUMNS


def weights_workspace(rows: int) -> int:
    """Floats that one thread of `correlate_weights` needs."""
    return (DEPTH + tiles(rows) * ROWS) * weights_chunk(rows) + ROWS * DEPTH + COLUMNS * _LINE_PITCH


@compile_kernel
def correlate_weights(
    source: Planes,
    grad_out: Planes,
    grad_weight: np.ndarray,
    workspace: np.ndarray,
    plan: Plan,
    chunk: int,
    first_row: int,
    last_row: int,
    first_column: int,
    last_column: int,
) -> None:
    """Rows (kernels of a group) and columns (source channels and taps) of grad_weight (groups, K, C*taps).

    The plan is the forward correlation's. The pixels of all images are summed in order, whatever the rows and
    columns. workspace: `weights_workspace` of the kernels of a group. chunk: their `weights_chunk`.
    """
    targets = plan.target_channels
    grid = plan.grid_rows * plan.grid_columns
    pixels = len(source.starts) * grid
    rows = last_row - first_row
    edge, rest = workspace[: ROWS * DEPTH], workspace[ROWS * DEPTH :]
    lines, rest = rest[: COLUMNS * _LINE_PITCH], rest[COLUMNS * _LINE_PITCH :]
    packed, sums = rest[: DEPTH * chunk], rest[DEPTH * chunk :]
    steps, counting = np.empty(DEPTH, np.int64), np.arange(DEPTH)
    line_steps = counting * COLUMNS
    tables = run_tables(plan, DEPTH)
    for g in range(plan.groups):
        plane = grad_out.starts[0, 1] - grad_out.starts[0, 0] if grad_out.starts.shape[1] > 1 else 0
        for start in range(first_column, last_column, chunk):
            count = min(chunk, last_column - start)
            columns = -(-count // COLUMNS)
            for piece in range(0, pixels, DEPTH):
                size = min(DEPTH, pixels - piece)
                deep = -(-size // LANES) * LANES
                for k in range(size):
                    n, here = divmod(piece + k, grid)
                    steps[k] = grad_out.starts[n, g * targets] + here
                runs = find_runs(source, plan, piece, size, DEPTH, 0, tables)
                for panel in range(columns):
                    both = start + panel * COLUMNS
                    pairs = min(COLUMNS, last_column - both)
                    gather_runs(
                        source,
                        g * plan.source_channels,
                        plan,
                        both,
                        pairs,
                        runs,
                        lines,
                        _LINE_PITCH,
                    )
                    lines[pairs * _LINE_PITCH :] = F(0)
                    for k in range(0, size, LANES):
                        for v in range(VECTORS):
                            transpose(
                                lines,
                                v * LANES * _LINE_PITCH + k,
                                _LINE_PITCH,
                                packed,
                                (panel * deep + k) * COLUMNS + v * LANES,
                                COLUMNS,
                            )
                multiply_block(
                    grad_out.values,
                    first_row * plane,
                    ROWS * plane,
                    plane,
                    steps,
                    size,
                    rows,
                    packed,
                    line_steps,
                    0,
                    deep * COLUMNS,
                    columns,
                    sums,
                    chunk,
                    piece > 0,
                    edge,
                    counting,
                )
            for k in range(rows):
                grad_weight[g, first_row + k, start : start + count] = sums[k * chunk : k * chunk + count]
