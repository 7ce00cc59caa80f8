"""The loops of batch normalisation, over some of the channels.

Sum and sum of squares are taken in float64 in one pass over the data, as float32 would lose their difference;
the sums of gradients in float32 over short pieces, and in float64 over these. A channel is taken at a time,
so that what is read twice comes from the cache the second time.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.views import BLOCK

F = np.float32
D = np.float64


# The compiler vectorises a loop that writes into an array which it reads only where the code says so. Where a
# result often lies over its source there is a loop for this case, told by `in_place`.


@compile_part
def _rectified(value: np.float32, slope: np.float32) -> np.float32:
    below = F(0) if slope == F(0) else slope * value  # 0 times an infinity would be NaN
    return below if value <= F(0) else value


@compile_part
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
def channel_sums(x: np.ndarray, sums: np.ndarray, first: int, last: int) -> None:
    """sums (C, 2): of each channel and of its squares."""
    batch, _, length = x.shape
    for c in range(first, last):
        total = D(0)
        squares = D(0)
        for n in range(batch):
            for i in range(length):
                value = D(x[n, c, i])
                total += value
                squares += value * value
        sums[c, 0] = total
        sums[c, 1] = squares


@compile_kernel
def normalize_training(
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
    sums: np.ndarray,
    count: float,
    given: bool,
    added: bool,
    in_place: bool,
    first: int,
    last: int,
) -> None:
    """sums: of `count` elements, if they are `given`."""
    for c in range(first, last):
        if not given:
            channel_sums(x, sums, c, c + 1)
        total, squares = sums[c]
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
def normalize_inference(
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


@compile_part
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


@compile_part
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


@compile_part
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
def gradient_sums(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_addend: np.ndarray,
    out: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    grad_skip: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    slope: np.float32,
    summed: bool,
    added: bool,
    in_place: bool,
    sums: np.ndarray,
    first: int,
    last: int,
) -> None:
    """The gradients by gamma and beta, and sums (C, 2): of the gradients before the activation, and of their
    products with x - mean. grad_skip lies over grad_out if `in_place`."""
    for c in range(first, last):
        center = F(saved_mean[c])
        inverse = D(saved_inverse[c])
        scale = F(gamma[c] * inverse)
        shift = F(beta[c])
        total = D(0)
        product = D(0)
        for n in range(x.shape[0]):
            # What is no function of grad_out and x alone is kept in grad_skip, which may be grad_x.
            if summed or added:
                behind = slope if added else F(1)
                rest = F(1) if added else slope
                _before_activation(grad_out, grad_addend, out, grad_skip, n, c, behind, summed, in_place)
                found = _gradient_sums(grad_skip, x, n, c, center, scale, shift, rest)
            else:
                found = _gradient_sums(grad_out, x, n, c, center, scale, shift, slope)
            total += found[0]
            product += found[1]
        grad_beta[c] = total
        grad_gamma[c] = product * inverse
        sums[c, 0] = total
        sums[c, 1] = product


@compile_kernel
def normalize_backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    grad_addend: np.ndarray,
    out: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    grad_skip: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    slope: np.float32,
    summed: bool,
    added: bool,
    in_place: bool,
    sums: np.ndarray,
    grad_x: np.ndarray,
    count: float,
    given: bool,
    x_in_place: bool,
    first: int,
    last: int,
) -> None:
    """sums: those of `gradient_sums` over `count` elements, if they are `given`.

    x_in_place: whether grad_x lies over what it is computed from.
    """
    batch, _, length = x.shape
    kept = summed or added
    rest = F(1) if added else slope
    for c in range(first, last):
        if not given:
            gradient_sums(
                x,
                grad_out,
                grad_addend,
                out,
                gamma,
                beta,
                saved_mean,
                saved_inverse,
                grad_skip,
                grad_gamma,
                grad_beta,
                slope,
                summed,
                added,
                in_place,
                sums,
                c,
                c + 1,
            )
        total, product = sums[c]
        center = F(saved_mean[c])
        inverse = D(saved_inverse[c])
        scale = F(gamma[c] * inverse)
        shift = F(beta[c])
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
