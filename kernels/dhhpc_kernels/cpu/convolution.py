"""Convolution (cross-correlation, as in all deep-learning libraries) and its gradients, in 1 to 3 dimensions.

Arrays are (N,C,L), (N,C,H,W) or (N,C,D,H,W); stride, padding and dilation have a number for each spatial
dimension. Each call goes to one of `dhhpc_kernels.cpu.convolutions`, the one that its `algorithms` choose.
"""

import numpy as np

from dhhpc_kernels.cpu.convolutions import (
    depthwise_convolution,
    direct_convolution,
    implicit_convolution,
    pointwise_convolution,
    pointwise_gradient,
    winograd_convolution,
    winograd_strided,
)
from dhhpc_kernels.cpu.convolutions.algorithms import (
    DEPTHWISE,
    DIRECT,
    POINTWISE,
    PRODUCT,
    STRIDED,
    SUMS,
    choose_backward,
    choose_forward,
    choose_weights,
    describe,
)
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, Shape, geometry
from dhhpc_kernels.cpu.reductions import sum_channels

_NO_BIAS = np.empty(0, np.float32)
_OTHERS = {
    DIRECT: direct_convolution,
    DEPTHWISE: depthwise_convolution,
    PRODUCT: implicit_convolution,
    SUMS: pointwise_gradient,
    STRIDED: winograd_strided,
    POINTWISE: pointwise_convolution,
}


def explain_convolution(
    x_shape: Shape, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> dict[str, str]:
    """The names of the algorithms chosen for "forward", "backward_data" and "backward_weights"."""
    shape = geometry(x_shape, weight_shape, None, stride, padding, dilation, groups)
    return {
        "forward": describe(choose_forward(shape)),
        "backward_data": describe(choose_backward(shape)),
        "backward_weights": describe(choose_weights(shape)),
    }


def convolution_workspace(
    x_shape: Shape, weight_shape: Shape, stride: Shape, padding: Shape, dilation: Shape, groups: int
) -> int:
    """Number of float32 the three convolution functions need as workspace for these shapes.

    It is for the number of threads set now. If more are set later, the functions use as many as fit in it.
    """
    return workspace_size(geometry(x_shape, weight_shape, None, stride, padding, dilation, groups))


def workspace_size(shape: Geometry) -> int:
    """The same for a convolution whose output may be smaller than what the formula gives."""
    forward, backward, weights = choose_forward(shape), choose_backward(shape), choose_weights(shape)
    sizes = [_OTHERS[other].workspace_size(shape) for other in {forward, backward, weights} & _OTHERS.keys()]
    if forward not in _OTHERS:
        sizes.append(winograd_convolution.forward_workspace(forward, shape))
    if weights not in _OTHERS:
        sizes.append(winograd_convolution.backward_weights_workspace(weights, shape))
    if backward not in _OTHERS:
        sizes.append(winograd_convolution.backward_data_workspace(backward, shape))
    return max(sizes)


def convolution_forward(
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
    """out (N,K,...) = weight (K,C/groups,...) correlated with x (N,C,...), plus bias (K,). All float32.

    Raises ValueError if the workspace is too small, as do the gradients.
    """
    shape = geometry(x.shape, weight.shape, out.shape[2:], stride, padding, dilation, groups)
    algorithm = choose_forward(shape)
    bias = _NO_BIAS if bias is None else bias
    if algorithm in _OTHERS:
        _OTHERS[algorithm].forward(shape, x, weight, bias, out, workspace)
    else:
        winograd_convolution.forward(algorithm, shape, x, weight, bias, out, workspace)


def transposed(
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> None:
    """The gradient by x, plus a bias (C,): what a transposed convolution computes forward."""
    shape = geometry(grad_x.shape, weight.shape, grad_out.shape[2:], stride, padding, dilation, groups)
    algorithm = choose_backward(shape)
    bias = _NO_BIAS if bias is None else bias
    if algorithm in _OTHERS:
        _OTHERS[algorithm].backward_data(shape, grad_out, weight, bias, grad_x, workspace)
    else:
        winograd_convolution.backward_data(algorithm, shape, grad_out, weight, bias, grad_x, workspace)


def convolution_backward_data(
    grad_out: np.ndarray,
    weight: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> None:
    """grad_x (N,C,...) = gradient of the loss by x, from grad_out (N,K,...) and weight (K,C/groups,...)."""
    transposed(grad_out, weight, None, grad_x, workspace, stride, padding, dilation, groups)


def convolution_backward_weights(
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
    """grad_weight (K,C/groups,...), grad_bias (K,) = gradients of the loss by weight and bias."""
    shape = geometry(x.shape, grad_weight.shape, grad_out.shape[2:], stride, padding, dilation, groups)
    algorithm = choose_weights(shape)
    if algorithm in _OTHERS:
        _OTHERS[algorithm].backward_weights(shape, x, grad_out, grad_weight, workspace)
    else:
        winograd_convolution.backward_weights(algorithm, shape, x, grad_out, grad_weight, workspace)
    if grad_bias is not None:
        sum_channels(grad_out, grad_bias)
