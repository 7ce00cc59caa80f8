"""Batch normalization (Ioffe and Szegedy 2015) over every axis but the channels', with what often follows it:
the sum with a second input, and a (leaky) ReLU, in the same pass.

Sum and sum of squares are taken in float64 in one pass over the data, as float32 would lose their difference;
the sums of gradients in float32 over short pieces, and in float64 over these. A channel is taken at a time,
so that what is read twice comes from the cache the second time.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.views import BLOCK, planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


# The compiler vectorises a loop that writes into an array which it reads only where the code says so. Where a
# result often lies over its source there is a loop for this case, told by `in_place`.


@compile_kernel
def _rectified(value: np.float32, slope: np.float32) -> np.float32:
    below = F(0) if slope == F(0) else slope * value  # 0 times an infinity would be NaN
    return below if value <= F(0) else value


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
    in_place: bool,
) -> None:
    """Channel c of out, which lies over skip, or over x without one, if `in_place`."""
    batch, _, length = x.shape
    for n in range(batch):
        if added and in_place:
            for i in range(length):
                out[n, c, i] = _rectified((x[n, c, i] - center) * scale + shift + out[n, c, i], slope)
        elif added:
            for i in range(length):
                out[n, c, i] = _rectified((x[n, c, i] - center) * scale + shift + skip[n, c, i], slope)
        elif in_place:
            for i in range(length):
                out[n, c, i] = _rectified((out[n, c, i] - center) * scale + shift, slope)
        else:
            for i in range(length):
                out[n, c, i] = _rectified((x[n, c, i] - center) * scale + shift, slope)


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
    in_place: bool,
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
        _normalize(x, skip, out, c, F(mean), F(gamma[c] * inverse), F(beta[c]), slope, added, in_place)


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
    in_place: bool,
    first: int,
    last: int,
) -> None:
    for c in range(first, last):
        scale = F(gamma[c] / np.sqrt(D(running_variance[c]) + epsilon))
        _normalize(x, skip, out, c, F(running_mean[c]), scale, F(beta[c]), slope, added, in_place)


@compile_kernel
def _before_activation(
    grad_out: np.ndarray,
    grad_addend: np.ndarray,
    out: np.ndarray,
    grad_skip: np.ndarray,
    n: int,
    c: int,
    slope: np.float32,
    summed: bool,
    in_place: bool,
) -> None:
    """The gradient of the activation's input by its output, which is positive where the input is.

    grad_skip lies over grad_out if `in_place`.
    """
    for i in range(out.shape[2]):
        gradient = grad_skip[n, c, i] if in_place else grad_out[n, c, i]
        if summed:
            gradient += grad_addend[n, c, i]
        below = F(0) if slope == F(0) else slope * gradient
        grad_skip[n, c, i] = below if out[n, c, i] <= F(0) else gradient


# Where out is a function of x alone, its sign is computed again. A slope of 1 leaves the gradients alone.


@compile_kernel
def _gradient_sums(
    gradients: np.ndarray,
    x: np.ndarray,
    n: int,
    c: int,
    center: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
) -> tuple[float, float]:
    """The sums of the gradients before the activation, and of their products with x - center."""
    totals = D(0)
    products = D(0)
    for start in range(0, x.shape[2], BLOCK):
        total = F(0)
        product = F(0)
        for i in range(start, min(start + BLOCK, x.shape[2])):
            distance = x[n, c, i] - center
            gradient = gradients[n, c, i]
            below = F(0) if slope == F(0) else slope * gradient
            gradient = below if distance * scale + shift <= F(0) else gradient
            total += gradient
            product += gradient * distance
        totals += D(total)
        products += D(product)
    return totals, products


@compile_kernel
def _gradient(
    gradient: np.float32,
    distance: np.float32,
    scale: np.float32,
    shift: np.float32,
    slope: np.float32,
    mean: np.float32,
    slant: np.float32,
) -> np.float32:
    below = F(0) if slope == F(0) else slope * gradient
    behind = below if distance * scale + shift <= F(0) else gradient
    return scale * (behind - mean - distance * slant)


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
    in_place: tuple[bool, bool],
    first: int,
    last: int,
) -> None:
    """in_place: whether grad_skip lies over grad_out, and grad_x over what it is computed from."""
    batch, _, length = x.shape
    count = batch * length
    # A gradient that is no function of grad_out and x alone is kept in grad_skip, which may be grad_x.
    kept = summed or added
    rest = F(1) if added else slope
    skip_in_place, x_in_place = in_place
    for c in range(first, last):
        center = F(saved_mean[c])
        inverse = D(saved_inverse[c])
        scale = F(gamma[c] * inverse)
        shift = F(beta[c])
        total = D(0)
        product = D(0)
        for n in range(batch):
            if kept:
                behind = slope if added else F(1)
                _before_activation(grad_out, grad_addend, out, grad_skip, n, c, behind, summed, skip_in_place)
                sums = _gradient_sums(grad_skip, x, n, c, center, scale, shift, rest)
            else:
                sums = _gradient_sums(grad_out, x, n, c, center, scale, shift, rest)
            total += sums[0]
            product += sums[1]
        grad_beta[c] = total
        grad_gamma[c] = product * inverse
        slant = F(product * inverse * inverse / count)
        mean = F(total / count)
        for n in range(batch):
            if x_in_place:
                for i in range(length):
                    distance = x[n, c, i] - center
                    grad_x[n, c, i] = _gradient(grad_x[n, c, i], distance, scale, shift, rest, mean, slant)
            elif kept:
                for i in range(length):
                    distance = x[n, c, i] - center
                    grad_x[n, c, i] = _gradient(grad_skip[n, c, i], distance, scale, shift, rest, mean, slant)
            else:
                for i in range(length):
                    distance = x[n, c, i] - center
                    grad_x[n, c, i] = _gradient(grad_out[n, c, i], distance, scale, shift, rest, mean, slant)


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
        np.may_share_memory(out, x if skip is None else skip),
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
        np.may_share_memory(out, x if skip is None else skip),
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
    kept = grad_x if grad_skip is None else grad_skip
    source = grad_out if grad_addend is None and out is None else kept
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
        planes(kept),
        planes(grad_x),
        grad_gamma,
        grad_beta,
        F(slope),
        grad_addend is not None,
        out is not None,
        (np.may_share_memory(kept, grad_out), np.may_share_memory(grad_x, source)),
    )
