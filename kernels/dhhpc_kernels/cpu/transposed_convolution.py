"""Two-dimensional transposed convolution (Dumoulin and Visin 2016): the convolution's gradient by its input.

So each function is a convolution's, with the roles of x and out exchanged. The weight is (C, K/groups, R, S)
as in PyTorch: for the convolution that maps out to x, C are its kernels and K its channels. Output padding is
implied by out's shape.
"""

import numpy as np

from dhhpc_kernels.cpu.algorithms import Pair
from dhhpc_kernels.cpu.convolution import (
    convolution_backward_weights,
    convolution_forward,
    convolution_workspace,
    transposed,
)
from dhhpc_kernels.cpu.correlation import sum_channels


def transposed_convolution_workspace(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> int:
    """Number of float32 the three functions need as workspace, for any output padding."""
    batch, _, height, width = x_shape
    rows, columns = (
        (size - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight_shape[2 + i] - 1) + 1
        for i, size in enumerate((height, width))
    )
    # PyTorch and ONNX allow an output padding below the stride or the dilation.
    more = [range(max(stride[i], dilation[i])) for i in (0, 1)]
    return max(
        convolution_workspace(
            (batch, weight_shape[1] * groups, rows + y, columns + x),
            weight_shape,
            stride,
            padding,
            dilation,
            groups,
        )
        for y in more[0]
        for x in more[1]
    )


def transposed_convolution_forward(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """out (N,K,OH,OW) = x (N,C,H,W) spread by weight (C,K/groups,R,S), plus bias (K,). All float32."""
    transposed(x, weight, bias, out, workspace, stride, padding, dilation, groups)


def transposed_convolution_backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_x (N,C,H,W) = gradient of the loss by x, from grad_out (N,K,OH,OW) and weight."""
    convolution_forward(grad_out, weight, None, grad_x, workspace, stride, padding, dilation, groups)


def transposed_convolution_backward_weights(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_weight (C,K/groups,R,S), grad_bias (K,) = gradients of the loss by weight and bias."""
    convolution_backward_weights(grad_out, x, grad_weight, None, workspace, stride, padding, dilation, groups)
    if grad_bias is not None:
        sum_channels(grad_out, grad_bias)
