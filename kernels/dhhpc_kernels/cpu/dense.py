"""Dense (fully connected) layers: matrix products of BLAS."""

import numpy as np


def dense_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, out: np.ndarray) -> None:
    """out (N,O) = x (N,I) times weight (O,I) transposed, plus bias (O,). All float32."""
    np.matmul(x, weight.T, out=out)
    if bias is not None:
        np.add(out, bias, out=out)


def dense_backward_data(grad_out: np.ndarray, weight: np.ndarray, grad_x: np.ndarray) -> None:
    """grad_x (N,I) = grad_out (N,O) times weight (O,I)."""
    np.matmul(grad_out, weight, out=grad_x)


def dense_backward_weights(
    x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, grad_bias: np.ndarray | None
) -> None:
    """grad_weight (O,I) = grad_out (N,O) transposed times x (N,I); grad_bias (O,) = sum of grad_out."""
    np.matmul(grad_out.T, x, out=grad_weight)
    if grad_bias is not None:
        np.sum(grad_out, axis=0, out=grad_bias)
