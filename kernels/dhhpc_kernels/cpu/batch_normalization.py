"""Batch normalization (Ioffe and Szegedy 2015) over every axis but the channels'.

Sums are taken in float64 in one pass over the data: exact enough for sum and sum of squares of float32.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.activations import planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


@compile_kernel
def _training(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    momentum: float,
    epsilon: float,
    first: int,
    last: int,
) -> None:
    batch, _, length = x.shape
    count = batch * length
    for c in range(first, last):
        total = D(0)
        squares = D(0)
        for n in range(batch):
            for i in range(length):
                value = D(x[n, c, i])
                total += value
                squares += value * value
        mean = total / count
        variance = squares / count - mean * mean
        variance = D(0) if variance < D(0) else variance
        inverse = D(1) / np.sqrt(variance + epsilon)
        saved_mean[c] = mean
        saved_inverse[c] = inverse
        unbiased = variance * count / max(count - 1, 1)
        running_mean[c] = (D(1) - momentum) * running_mean[c] + momentum * mean
        running_variance[c] = (D(1) - momentum) * running_variance[c] + momentum * unbiased
        scale = F(gamma[c] * inverse)
        center = F(mean)
        shift = F(beta[c])
        for n in range(batch):
            for i in range(length):
                out[n, c, i] = (x[n, c, i] - center) * scale + shift


@compile_kernel
def _inference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    epsilon: float,
    first: int,
    last: int,
) -> None:
    batch, _, length = x.shape
    for n in range(batch):
        for c in range(first, last):
            scale = F(gamma[c] / np.sqrt(D(running_variance[c]) + epsilon))
            center = F(running_mean[c])
            shift = F(beta[c])
            for i in range(length):
                out[n, c, i] = (x[n, c, i] - center) * scale + shift


@compile_kernel
def _backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    gamma: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    grad_x: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    first: int,
    last: int,
) -> None:
    batch, _, length = x.shape
    count = batch * length
    for c in range(first, last):
        center = F(saved_mean[c])
        total = D(0)
        product = D(0)
        for n in range(batch):
            for i in range(length):
                gradient = D(grad_out[n, c, i])
                total += gradient
                product += gradient * D(x[n, c, i] - center)
        inverse = D(saved_inverse[c])
        grad_beta[c] = total
        grad_gamma[c] = product * inverse
        scale = F(gamma[c] * inverse)
        slope = F(product * inverse * inverse / count)
        mean = F(total / count)
        for n in range(batch):
            for i in range(length):
                grad_x[n, c, i] = scale * (grad_out[n, c, i] - mean - (x[n, c, i] - center) * slope)


def batch_normalization_training(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse_deviation: np.ndarray,
    momentum: float,
    epsilon: float,
) -> None:
    """out = (x - mean) / sqrt(variance + epsilon) * gamma + beta with the statistics of this batch.

    x, out: (N,C) or (N,C,H,W) float32; the others (C,). The running statistics become
    (1 - momentum) * running + momentum * batch, with the unbiased variance as in PyTorch (0 for one element a
    channel). saved_mean and saved_inverse_deviation, 1 / sqrt(variance + epsilon), are for the backward pass.
    """
    run_shares(
        _training,
        x.shape[1],
        x.size,
        planes(x),
        gamma,
        beta,
        running_mean,
        running_variance,
        planes(out),
        saved_mean,
        saved_inverse_deviation,
        float(momentum),
        float(epsilon),
    )


def batch_normalization_inference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    epsilon: float,
) -> None:
    """out = (x - running_mean) / sqrt(running_variance + epsilon) * gamma + beta."""
    run_shares(
        _inference,
        x.shape[1],
        x.size,
        planes(x),
        gamma,
        beta,
        running_mean,
        running_variance,
        planes(out),
        float(epsilon),
    )


def batch_normalization_backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    gamma: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse_deviation: np.ndarray,
    grad_x: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
) -> None:
    """Gradients by x (may be written over grad_out), gamma and beta (C,) of the training-mode forward."""
    run_shares(
        _backward,
        x.shape[1],
        x.size,
        planes(x),
        planes(grad_out),
        gamma,
        saved_mean,
        saved_inverse_deviation,
        planes(grad_x),
        grad_gamma,
        grad_beta,
    )
