"""Two-dimensional convolution (cross-correlation, as in all deep-learning libraries) and its gradients.

Each call goes to the algorithm that `dhhpc_kernels.cpu.algorithms` chooses for its shape.
"""

import numpy as np

from dhhpc_kernels.cpu import direct_convolution, winograd_convolution
from dhhpc_kernels.cpu.algorithms import DIRECT, Pair, Shape, choose_tile, describe
from dhhpc_kernels.cpu.correlation import sum_channels


def _output_size(x_shape: Shape, weight_shape: Shape, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    rows, columns = (
        (x_shape[2 + i] + 2 * padding[i] - dilation[i] * (weight_shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return rows, columns


def _turned(weight_shape: Shape) -> Shape:
    """The shape of the weights that map out to x."""
    return (weight_shape[1], weight_shape[0], *weight_shape[2:])


def explain_convolution(
    x_shape: Shape, weight_shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> dict[str, str]:
    """The names of the algorithms chosen for "forward", "backward_data" and "backward_weights"."""
    options = (stride, padding, dilation, groups)
    out_size = _output_size(x_shape, weight_shape, stride, padding, dilation)
    forward = choose_tile(weight_shape, out_size, *options)
    backward = choose_tile(_turned(weight_shape), (x_shape[2], x_shape[3]), *options)
    return {
        "forward": describe(forward),
        "backward_data": describe(backward),
        "backward_weights": describe(forward),
    }


def convolution_workspace(
    x_shape: Shape, weight_shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> int:
    """Number of float32 the three convolution functions need as workspace for these shapes.

    It is for the number of threads set now. If more are set later, the functions use as many as fit in it.
    """
    options = (stride, padding, dilation, groups)
    x_size = (x_shape[2], x_shape[3])
    out_size = _output_size(x_shape, weight_shape, stride, padding, dilation)
    forward = choose_tile(weight_shape, out_size, *options)
    backward = choose_tile(_turned(weight_shape), x_size, *options)
    sizes = []
    if DIRECT in (forward, backward):
        sizes.append(direct_convolution.workspace_size(x_shape, weight_shape, out_size, *options))
    channels = (x_shape[1], weight_shape[0])
    if forward != DIRECT:
        sizes += [
            winograd_convolution.convolve_workspace(forward, x_shape[0], channels, out_size, padding),
            winograd_convolution.weight_gradient_workspace(forward, x_shape[0], channels, out_size, padding),
        ]
    if backward != DIRECT:
        turned = (2 - padding[0], 2 - padding[1])
        sizes.append(
            winograd_convolution.convolve_workspace(backward, x_shape[0], channels[::-1], x_size, turned)
        )
    return max(sizes)


def convolution_forward(
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
    """out (N,K,OH,OW) = weight (K,C/groups,R,S) correlated with x (N,C,H,W), plus bias (K,). All float32.

    Raises ValueError if the workspace is too small.
    """
    tile = choose_tile(weight.shape, out.shape[2:], stride, padding, dilation, groups)
    if tile == DIRECT:
        direct_convolution.forward(x, weight, bias, out, workspace, stride, padding, dilation, groups)
    else:
        winograd_convolution.convolve(tile, x, weight, bias, out, workspace, padding, source_first=False)


def transposed(
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """The gradient by x, plus a bias (C,): what a transposed convolution computes forward."""
    tile = choose_tile(_turned(weight.shape), grad_x.shape[2:], stride, padding, dilation, groups)
    if tile == DIRECT:
        direct_convolution.backward_data(
            grad_out, weight, bias, grad_x, workspace, stride, padding, dilation, groups
        )
    else:
        turned = (2 - padding[0], 2 - padding[1])
        winograd_convolution.convolve(
            tile, grad_out, weight, bias, grad_x, workspace, turned, source_first=True
        )


def convolution_backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """grad_x (N,C,H,W) = gradient of the loss by x, from grad_out (N,K,OH,OW) and weight (K,C/groups,R,S)."""
    transposed(grad_out, weight, None, grad_x, workspace, stride, padding, dilation, groups)


def convolution_backward_weights(
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
    """grad_weight (K,C/groups,R,S), grad_bias (K,) = gradients of the loss by weight and bias."""
    tile = choose_tile(grad_weight.shape, grad_out.shape[2:], stride, padding, dilation, groups)
    if tile == DIRECT:
        direct_convolution.backward_weights(
            x, grad_out, grad_weight, workspace, stride, padding, dilation, groups
        )
    else:
        winograd_convolution.weight_gradient(tile, x, grad_out, grad_weight, workspace, padding)
    if grad_bias is not None:
        sum_channels(grad_out, grad_bias)
