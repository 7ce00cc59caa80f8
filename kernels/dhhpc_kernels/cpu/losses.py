"""Losses: the mean over the batch of each sample's loss, and its gradient by the prediction in the same call.

A sample's loss is a mean over its own pixels (and channels where said), so averaging gradients over ranks
with equal batches is exact. A block's loss is summed in float32, the blocks' losses in float64 and in one
order, so that the sum is the same for any number of threads.
"""

import math
from collections.abc import Callable

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.exponential import exponential, logarithm
from dhhpc_kernels.cpu.views import BLOCK, flat
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64
# As PyTorch's binary_cross_entropy: the logarithm of (almost) 0 is -100, no division by less than 1e-12.
_LEAST_LOGARITHM = np.float32(-100.0)
_LEAST_DIVISOR = np.float32(1e-12)
_LEAST_NORMAL = np.float32(1.1754944e-38)


@compile_part
def _clamped_logarithm(x: np.float32) -> np.float32:
    """log(x), -100 for x near 0; NaN for NaN."""
    return _LEAST_LOGARITHM if x < _LEAST_NORMAL else logarithm(x)


@compile_kernel
def _cross_entropy(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            p = prediction[i]
            divisor = _LEAST_DIVISOR if p < _LEAST_DIVISOR else p
            total -= target[i] * _clamped_logarithm(p)
            gradient[i] = -target[i] * scale / divisor
        losses[block] = total


@compile_kernel
def _sigmoid_binary_cross_entropy(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            x = prediction[i]
            power = exponential(-abs(x))
            # log(1 + exp(x)) - x * target, without overflow
            total += (x if x > F(0) else F(0)) - x * target[i] + logarithm(F(1) + power)
            probability = (F(1) if x >= F(0) else power) / (F(1) + power)
            gradient[i] = (probability - target[i]) * scale
        losses[block] = total


@compile_kernel
def _binary_cross_entropy(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            p = prediction[i]
            t = target[i]
            divisor = p * (F(1) - p)
            divisor = _LEAST_DIVISOR if divisor < _LEAST_DIVISOR else divisor
            total -= t * _clamped_logarithm(p) + (F(1) - t) * _clamped_logarithm(F(1) - p)
            gradient[i] = (p - t) * scale / divisor
        losses[block] = total


@compile_kernel
def _mean_squared_error(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            difference = prediction[i] - target[i]
            total += difference * difference
            gradient[i] = F(2) * scale * difference
        losses[block] = total


@compile_kernel
def _mean_absolute_error(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            difference = prediction[i] - target[i]
            total += abs(difference)
            # NaN goes through.
            sign = F(1) if difference > F(0) else F(-1) if difference < F(0) else difference
            gradient[i] = scale * sign
        losses[block] = total


@compile_kernel
def _huber(
    predictions: np.ndarray,
    targets: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    for block in range(begin, end):
        prediction = predictions[block * BLOCK : (block + 1) * BLOCK]
        target = targets[block * BLOCK : (block + 1) * BLOCK]
        gradient = grad[block * BLOCK : (block + 1) * BLOCK]
        total = F(0)
        for i in range(gradient.size):
            difference = prediction[i] - target[i]
            bounded = F(1) if difference > F(1) else F(-1) if difference < F(-1) else difference
            total += bounded * (difference - F(0.5) * bounded)
            gradient[i] = scale * bounded
        losses[block] = total


@compile_kernel
def _dice_sums(
    probabilities: np.ndarray, targets: np.ndarray, sums: np.ndarray, begin: int, end: int
) -> None:
    for plane in range(begin, end):
        probability = probabilities[plane]
        target = targets[plane]
        product = D(0)
        total = D(0)
        for i in range(probability.size):
            p = D(probability[i])
            t = D(target[i])
            product += p * t
            total += p + t
        sums[plane, 0] = product
        sums[plane, 1] = total


@compile_kernel
def _dice_of_sums(
    targets: np.ndarray,
    sums: np.ndarray,
    grad: np.ndarray,
    smooth: float,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    count = grad.shape[0]
    for plane in range(begin, end):
        target = targets[plane]
        gradient = grad[plane]
        numerator = D(2) * sums[plane, 0] + smooth
        denominator = sums[plane, 1] + smooth
        losses[plane] = D(1) - numerator / denominator
        by_target = F(-2 / denominator / count)
        constant = F(numerator / (denominator * denominator) / count)
        for i in range(gradient.size):
            gradient[i] = by_target * target[i] + constant


def _mean_over_elements(
    kernel: Callable[..., None], predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray, count: int
) -> float:
    """The sum of an element-wise loss over `count`; NaN of nothing."""
    if count == 0:
        return math.nan
    losses = np.empty(-(-grad.size // BLOCK), D)
    arrays = flat(predictions), flat(targets), flat(grad)
    run_shares(kernel, losses.size, 3 * grad.size, *arrays, F(1 / count), losses)
    return float(losses.sum()) / count


def cross_entropy(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """- sum over classes of targets * log probabilities (a softmax's output), mean over pixels and batch.

    All float32 (N,C) or (N,C,...), classes on axis 1; the logarithm is kept at -100 and above.
    """
    count = probabilities.size // probabilities.shape[1]
    return _mean_over_elements(_cross_entropy, probabilities, targets, grad, count)


def sigmoid_binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """Binary cross-entropy of sigmoid(logits), mean over every element. float32, any one shape."""
    return _mean_over_elements(_sigmoid_binary_cross_entropy, logits, targets, grad, grad.size)


def binary_cross_entropy(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """- targets log p - (1 - targets) log (1 - p), mean over every element; clamped as PyTorch's."""
    return _mean_over_elements(_binary_cross_entropy, probabilities, targets, grad, grad.size)


def mean_squared_error(predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """(predictions - targets)^2, mean over every element. float32, any one shape."""
    return _mean_over_elements(_mean_squared_error, predictions, targets, grad, grad.size)


def mean_absolute_error(predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """|predictions - targets|, mean over every element; the slope at 0 is 0. float32, any one shape."""
    return _mean_over_elements(_mean_absolute_error, predictions, targets, grad, grad.size)


def huber(predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """difference^2 / 2 up to 1, |difference| - 1/2 beyond (Huber 1964), mean over every element."""
    return _mean_over_elements(_huber, predictions, targets, grad, grad.size)


def dice(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray, smooth: float = 1.0) -> float:
    """1 - mean over samples and channels of (2 sum(p t) + smooth) / (sum p + sum t + smooth).

    float32 (N,C,...); the inner sums run over a channel's pixels (Milletari et al. 2016, but with plain sums
    below the line). An empty channel predicted empty has loss 0, or NaN if smooth is 0.
    """
    return dice_of_sums(targets, dice_sums(probabilities, targets), grad, smooth)


def dice_sums(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """sum(p t) and sum p + sum t over the pixels of each sample and channel: float64 (N*C,2).

    Those of parts of an image add up to those of the image, which `dice_of_sums` then takes.
    """
    sums = np.empty((targets.shape[0] * targets.shape[1], 2), D)
    arrays = (array.reshape(len(sums), -1, copy=False) for array in (probabilities, targets))
    run_shares(_dice_sums, len(sums), 2 * targets.size, *arrays, sums)
    return sums


def dice_of_sums(targets: np.ndarray, sums: np.ndarray, grad: np.ndarray, smooth: float = 1.0) -> float:
    """`dice` from the sums over the whole image; the targets and the gradient may be those of a part."""
    losses = np.empty(len(sums), D)
    planes, gradients = (array.reshape(losses.size, -1, copy=False) for array in (targets, grad))
    run_shares(_dice_of_sums, losses.size, 2 * grad.size, planes, sums, gradients, float(smooth), losses)
    return float(losses.mean())
