"""Embedding: rows of a table, taken by number."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares


@compile_kernel
def _gather(indices: np.ndarray, table: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    for i in range(first, last):
        line = table[int(indices[i])]
        for k in range(line.size):
            out[i, k] = line[k]


@compile_kernel
def _scatter_add(
    indices: np.ndarray, grad_out: np.ndarray, grad_table: np.ndarray, first: int, last: int
) -> None:
    # A share is a range of the table's rows, whose sums run over the indices in their order on any number of
    # threads.
    grad_table[first:last] = np.float32(0)
    for i in range(indices.size):
        index = int(indices[i])
        if first <= index < last:
            total = grad_table[index]
            for k in range(total.size):
                total[k] += grad_out[i, k]


def embedding_forward(indices: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """out (...,E) = the rows of table (V,E) at indices (...): whole numbers from 0 to V - 1, as float32."""
    rows = out.reshape(-1, table.shape[1], copy=False)
    run_shares(_gather, rows.shape[0], out.size, indices.reshape(-1), table, rows)


def embedding_backward(indices: np.ndarray, grad_out: np.ndarray, grad_table: np.ndarray) -> None:
    """grad_table (V,E) = at each row the sum of grad_out (...,E) over the places where indices name it."""
    rows = grad_out.reshape(-1, grad_table.shape[1], copy=False)
    run_shares(
        _scatter_add,
        grad_table.shape[0],
        grad_out.size + grad_table.size,
        indices.reshape(-1),
        rows,
        grad_table,
    )
