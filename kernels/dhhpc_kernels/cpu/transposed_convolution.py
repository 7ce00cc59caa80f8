"""Transposed convolution (Dumoulin and Visin 2016) in 1 to 3 dimensions: convolution's gradient by its input.

So each function is a convolution's, with the roles of x and out exchanged. The weight is (C, K/groups, ...)
as in PyTorch: for the convolution that maps out to x, C are its kernels and K its channels. Output padding is
implied by out's shape.
"""

import itertools

import numpy as np

from dhhpc_kernels.cpu.convolution import (
    convolution_backward_weights,
    convolution_forward,
    transposed,
    workspace_size,
)
from dhhpc_kernels.cpu.convolutions.geometry import Shape, geometry
from dhhpc_kernels.cpu.reductions import sum_channels


def transposed_convolution_workspace(
    x_shape: Shape, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> int:
    """Number of float32 the three functions need as workspace, for any output padding."""
    least = [
        (size - 1) * step - 2 * pad + spread * (taps - 1) + 1
        for size, step, pad, spread, taps in zip(
            x_shape[2:], stride, padding, dilation, weight_shape[2:], strict=True
        )
    ]
    # PyTorch and ONNX allow an output padding below the stride or the dilation.
    more = (range(max(both)) for both in zip(stride, dilation, strict=True))
    return max(
        workspace_size(
            geometry(
                (x_shape[0], weight_shape[1] * groups, *(a + b for a, b in zip(least, extra, strict=True))),
                weight_shape,
                x_shape[2:],
                stride,
                padding,
                dilation,
                groups,
            )
        )
        for extra in itertools.product(*more)
    )


def transposed_convolution_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> None:
    """out (N,K,...) = x (N,C,...) spread by weight (C,K/groups,...), plus bias (K,). All float32."""
    transposed(x, weight, bias, out, workspace, stride, padding, dilation, groups)


def transposed_convolution_backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> None:
    """grad_x (N,C,...) = gradient of the loss by x, from grad_out (N,K,...) and weight."""
    convolution_forward(grad_out, weight, None, grad_x, workspace, stride, padding, dilation, groups)


def transposed_convolution_backward_weights(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    workspace: np.ndarray,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> None:
    """grad_weight (C,K/groups,...), grad_bias (K,) = gradients of the loss by weight and bias."""
    convolution_backward_weights(grad_out, x, grad_weight, None, workspace, stride, padding, dilation, groups)
    if grad_bias is not None:
        sum_channels(grad_out, grad_bias)
