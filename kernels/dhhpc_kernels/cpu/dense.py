"""Dense (fully connected) layers: matrix products of BLAS, shared out to the kernels' threads.

BLAS itself runs on one thread: its own ones would wait awake for many milliseconds on the cores of ours.
"""

import numpy as np
import threadpoolctl

from dhhpc_kernels.parallel import run_shares

threadpoolctl.threadpool_limits(limits=1, user_api="blas")

# Multiplications in the time that it takes to read or write a float.
_PRODUCTS = 8


def _multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    """Columns first to last of out = a b."""
    np.matmul(a, b[:, first:last], out=out[:, first:last])


def _multiply_rows(a: np.ndarray, b: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    """Rows first to last of out = a b."""
    np.matmul(a[first:last], b, out=out[first:last])


def dense_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, out: np.ndarray) -> None:
    """out (N,O) = x (N,I) times weight (O,I) transposed, plus bias (O,). All float32."""
    run_shares(_multiply, len(weight), weight.size * (1 + len(x) // _PRODUCTS), x, weight.T, out)
    if bias is not None:
        np.add(out, bias, out=out)


def dense_backward_data(grad_out: np.ndarray, weight: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x (N,I) = grad_out (N,O) times weight (O,I)."""
    work = weight.size * (1 + len(grad_x) // _PRODUCTS)
    run_shares(_multiply, grad_x.shape[1], work, grad_out, weight, grad_x)


def dense_backward_weights(
    x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, grad_bias: np.ndarray | None
) -> None:
    """grad_weight (O,I) = grad_out (N,O) transposed times x (N,I); grad_bias (O,) = sum of grad_out."""
    work = grad_weight.size * (1 + len(x) // _PRODUCTS)
    run_shares(_multiply_rows, len(grad_weight), work, grad_out.T, x, grad_weight)
    if grad_bias is not None:
        np.sum(grad_out, axis=0, out=grad_bias)
