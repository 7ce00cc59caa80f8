"""Batch normalization (Ioffe and Szegedy 2015) over every axis but the channels', with what often follows it:
the sum with a second input, and a (leaky) ReLU, in the same pass.

Sum and sum of squares are taken in float64 in one pass over the data, as float32 would lose their difference;
the sums of gradients in float32 over short pieces, and in float64 over these. A channel is taken at a time,
so that what is read twice comes from the cache the second time.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.activations import BLOCK, copy, planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


# The compiler vectorises a loop best in a function of its own, between arrays that do not overlap: results
# that may be written over what they are computed from go through a buffer.


@compile_kernel
def _normalize_line(
    values: np.ndarray,
    addends: np.ndarray,
    center: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
    added: bool,
    results: np.ndarray,
) -> None:
    flat = slope == F(0)  # 0 times an infinity would be NaN
    if added:
        for i in range(results.size):
            value = (values[i] - center) * scale + shift + addends[i]
            below = F(0) if flat else slope * value
            results[i] = below if value <= F(0) else value
    else:
        for i in range(results.size):
            value = (values[i] - center) * scale + shift
            below = F(0) if flat else slope * value
            results[i] = below if value <= F(0) else value


@compile_kernel
def _normalize(
    x: np.ndarray,
    skip: np.ndarray,
    out: np.ndarray,
    c: int,
    center: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
    added: bool,
) -> None:
    """Channel c of out, which may be x or skip."""
    batch, _, length = x.shape
    buffer = np.empty(BLOCK, np.float32)
    for n in range(batch):
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            results = buffer[: stop - start]
            values = x[n, c, start:stop]
            _normalize_line(values, skip[n, c, start:stop], center, scale, shift, slope, added, results)
            copy(results, out[n, c, start:stop])


@compile_kernel
def _training(
    x: np.ndarray,
    skip: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    momentum: float,
    epsilon: float,
    slope: np.float32,
    added: bool,
    first: int,
    last: int,
) -> None:
    batch, _, length = x.shape
    count = batch * length
    for c in range(first, last):
        total = D(0)
        squares = D(0)
        for n in range(batch):
            values = x[n, c]
            for i in range(length):
                value = D(values[i])
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
        _normalize(x, skip, out, c, F(mean), F(gamma[c] * inverse), F(beta[c]), slope, added)


@compile_kernel
def _inference(
    x: np.ndarray,
    skip: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    epsilon: float,
    slope: np.float32,
    added: bool,
    first: int,
    last: int,
) -> None:
    for c in range(first, last):
        scale = F(gamma[c] / np.sqrt(D(running_variance[c]) + epsilon))
        _normalize(x, skip, out, c, F(running_mean[c]), scale, F(beta[c]), slope, added)


@compile_kernel
def _before_activation(
    gradients: np.ndarray,
    addends: np.ndarray,
    summed: bool,
    outputs: np.ndarray,
    added: bool,
    slope: np.float32,
    results: np.ndarray,
) -> None:
    """The sum of two gradients, if it is one; with a skip that of the activation's input, by its output."""
    flat = slope == F(0)
    for i in range(results.size):
        gradient = gradients[i] + addends[i] if summed else gradients[i]
        below = F(0) if flat else slope * gradient
        results[i] = below if added and outputs[i] <= F(0) else gradient


# Where out is a function of x alone, its sign is computed again. A slope of 1 leaves the gradients alone.


@compile_kernel
def _gradient_sums(
    gradients: np.ndarray,
    values: np.ndarray,
    center: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
) -> tuple[float, float]:
    """The sums of the gradients before the activation, and of their products with values - center."""
    flat = slope == F(0)
    total = F(0)
    product = F(0)
    for i in range(gradients.size):
        distance = values[i] - center
        below = F(0) if flat else slope * gradients[i]
        gradient = below if distance * scale + shift <= F(0) else gradients[i]
        total += gradient
        product += gradient * distance
    return D(total), D(product)


@compile_kernel
def _gradient_line(
    gradients: np.ndarray,
    values: np.ndarray,
    center: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
    mean: np.float32,
    slant: np.float32,
    results: np.ndarray,
) -> None:
    flat = slope == F(0)
    for i in range(results.size):
        distance = values[i] - center
        below = F(0) if flat else slope * gradients[i]
        gradient = below if distance * scale + shift <= F(0) else gradients[i]
        results[i] = scale * (gradient - mean - distance * slant)


@compile_kernel
def _backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_addend: np.ndarray,
    out: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    grad_skip: np.ndarray,
    grad_x: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    slope: np.float32,
    summed: bool,
    added: bool,
    first: int,
    last: int,
) -> None:
    """A gradient that is no function of grad_out and x alone is kept in grad_skip, which may be grad_x."""
    batch, _, length = x.shape
    count = batch * length
    kept = summed or added
    source = grad_skip if kept else grad_out
    rest = F(1) if added else slope
    buffer = np.empty(BLOCK, np.float32)
    for c in range(first, last):
        center = F(saved_mean[c])
        inverse = D(saved_inverse[c])
        scale = F(gamma[c] * inverse)
        shift = F(beta[c])
        total = D(0)
        product = D(0)
        for n in range(batch):
            for start in range(0, length, BLOCK):
                stop = min(start + BLOCK, length)
                gradients = grad_out[n, c, start:stop]
                if kept:
                    results = buffer[: stop - start]
                    addends = grad_addend[n, c, start:stop]
                    outputs = out[n, c, start:stop]
                    _before_activation(gradients, addends, summed, outputs, added, slope, results)
                    copy(results, grad_skip[n, c, start:stop])
                    gradients = results
                sums = _gradient_sums(gradients, x[n, c, start:stop], center, scale, shift, rest)
                total += sums[0]
                product += sums[1]
        grad_beta[c] = total
        grad_gamma[c] = product * inverse
        slant = F(product * inverse * inverse / count)
        mean = F(total / count)
        for n in range(batch):
            for start in range(0, length, BLOCK):
                stop = min(start + BLOCK, length)
                results = buffer[: stop - start]
                gradients = source[n, c, start:stop]
                values = x[n, c, start:stop]
                _gradient_line(gradients, values, center, scale, shift, rest, mean, slant, results)
                copy(results, grad_x[n, c, start:stop])


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
    skip: np.ndarray | None = None,
    slope: float = 1.0,
) -> None:
    """out = f((x - mean) / sqrt(variance + epsilon) * gamma + beta + skip) with the statistics of this batch,
    where f(y) = y for y > 0, else slope * y: nothing by default, ReLU with 0, a leaky ReLU in between.

    x, skip, out (may be written over x or skip): (N,C) or (N,C,H,W) float32; the others (C,). The running
    statistics become (1 - momentum) * running + momentum * batch, with the unbiased variance as in PyTorch (0
    for one element a channel). saved_mean and saved_inverse_deviation, 1 / sqrt(variance + epsilon), are for
    the backward pass, which reads x too.
    """
    run_shares(
        _training,
        x.shape[1],
        x.size,
        planes(x),
        planes(x if skip is None else skip),
        gamma,
        beta,
        running_mean,
        running_variance,
        planes(out),
        saved_mean,
        saved_inverse_deviation,
        float(momentum),
        float(epsilon),
        F(slope),
        skip is not None,
    )


def batch_normalization_inference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_variance: np.ndarray,
    out: np.ndarray,
    epsilon: float,
    skip: np.ndarray | None = None,
    slope: float = 1.0,
) -> None:
    """out = f((x - running_mean) / sqrt(running_variance + epsilon) * gamma + beta + skip), f as in training.
    It may be written over x or skip."""
    run_shares(
        _inference,
        x.shape[1],
        x.size,
        planes(x),
        planes(x if skip is None else skip),
        gamma,
        beta,
        running_mean,
        running_variance,
        planes(out),
        float(epsilon),
        F(slope),
        skip is not None,
    )


def batch_normalization_backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse_deviation: np.ndarray,
    grad_x: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    grad_addend: np.ndarray | None = None,
    out: np.ndarray | None = None,
    grad_skip: np.ndarray | None = None,
    slope: float = 1.0,
) -> None:
    """Gradients by x (may be written over grad_out), gamma and beta (C,) of the training-mode forward.

    grad_addend: a second part of the gradient by out, if it comes in two.
    out: what forward wrote, needed if it had a skip; without one its sign is computed again.
    grad_skip: the gradient by skip (may be written over grad_out, but not over grad_x), if wanted.
    """
    run_shares(
        _backward,
        x.shape[1],
        x.size,
        planes(x),
        planes(grad_out),
        planes(grad_out if grad_addend is None else grad_addend),
        planes(x if out is None else out),
        gamma,
        beta,
        saved_mean,
        saved_inverse_deviation,
        planes(grad_x if grad_skip is None else grad_skip),
        planes(grad_x),
        grad_gamma,
        grad_beta,
        F(slope),
        grad_addend is not None,
        out is not None,
    )
