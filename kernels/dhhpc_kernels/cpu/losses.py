"""Losses: the mean over the batch of each sample's loss, and its gradient by the prediction in the same call.

A sample's loss is a mean over its own pixels (and channels where said), so averaging gradients over ranks
with equal batches is exact. Losses are summed in float32 over a block of pixels, in float64 over the blocks.
"""

import math

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.activations import BLOCK, column_maxima, flat, planes
from dhhpc_kernels.cpu.exponential import exponential, logarithm

F = np.float32
D = np.float64
# As PyTorch's binary_cross_entropy: the logarithm of (almost) 0 is -100, no division by less than 1e-12.
_LEAST_LOGARITHM = np.float32(-100.0)
_LEAST_DIVISOR = np.float32(1e-12)
_LEAST_NORMAL = np.float32(1.1754944e-38)


@compile_kernel
def _clamped_logarithm(x: np.float32) -> np.float32:
    """log(x), -100 for x near 0; NaN for NaN."""
    return _LEAST_LOGARITHM if x < _LEAST_NORMAL else logarithm(x)


@compile_kernel
def _softmax_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, grad: np.ndarray, scale: np.float32
) -> np.float64:
    batch, channels, length = logits.shape
    largest = np.empty(BLOCK, np.float32)
    total = np.empty(BLOCK, np.float32)
    mass = np.empty(BLOCK, np.float32)
    dot = np.empty(BLOCK, np.float32)
    loss = D(0)
    for n in range(batch):
        for first in range(0, length, BLOCK):
            size = min(BLOCK, length - first)
            column_maxima(logits, n, first, size, largest)
            for i in range(size):
                total[i] = F(0)
                mass[i] = F(0)
                dot[i] = F(0)
            for c in range(channels):
                logit = logits[n, c, first : first + size]
                target = targets[n, c, first : first + size]
                output = grad[n, c, first : first + size]
                for i in range(size):
                    shifted = logit[i] - largest[i]
                    value = exponential(shifted)
                    output[i] = value
                    total[i] += value
                    mass[i] += target[i]
                    # A class of target 0 adds nothing, even where its logit is minus infinity.
                    dot[i] += F(0) if target[i] == F(0) else target[i] * shifted
            for i in range(size):
                loss += D(mass[i] * logarithm(total[i]) - dot[i])
                total[i] = mass[i] * scale / total[i]
            for c in range(channels):
                target = targets[n, c, first : first + size]
                output = grad[n, c, first : first + size]
                for i in range(size):
                    output[i] = output[i] * total[i] - target[i] * scale
    return loss


@compile_kernel
def _cross_entropy(
    probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray, scale: np.float32
) -> np.float64:
    loss = D(0)
    for first in range(0, grad.size, BLOCK):
        probability = probabilities[first : first + BLOCK]
        target = targets[first : first + BLOCK]
        gradient = grad[first : first + BLOCK]
        total = F(0)
        for i in range(gradient.size):
            p = probability[i]
            divisor = _LEAST_DIVISOR if p < _LEAST_DIVISOR else p
            total += target[i] * _clamped_logarithm(p)
            gradient[i] = -target[i] * scale / divisor
        loss -= D(total)
    return loss


@compile_kernel
def _sigmoid_binary_cross_entropy(
    logits: np.ndarray, targets: np.ndarray, grad: np.ndarray, scale: np.float32
) -> np.float64:
    loss = D(0)
    for first in range(0, grad.size, BLOCK):
        logit = logits[first : first + BLOCK]
        target = targets[first : first + BLOCK]
        gradient = grad[first : first + BLOCK]
        total = F(0)
        for i in range(gradient.size):
            x = logit[i]
            power = exponential(-abs(x))
            # log(1 + exp(x)) - x * target, without overflow
            total += (x if x > F(0) else F(0)) - x * target[i] + logarithm(F(1) + power)
            probability = (F(1) if x >= F(0) else power) / (F(1) + power)
            gradient[i] = (probability - target[i]) * scale
        loss += D(total)
    return loss


@compile_kernel
def _binary_cross_entropy(
    probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray, scale: np.float32
) -> np.float64:
    loss = D(0)
    for first in range(0, grad.size, BLOCK):
        probability = probabilities[first : first + BLOCK]
        target = targets[first : first + BLOCK]
        gradient = grad[first : first + BLOCK]
        total = F(0)
        for i in range(gradient.size):
            p = probability[i]
            t = target[i]
            divisor = p * (F(1) - p)
            divisor = _LEAST_DIVISOR if divisor < _LEAST_DIVISOR else divisor
            total += t * _clamped_logarithm(p) + (F(1) - t) * _clamped_logarithm(F(1) - p)
            gradient[i] = (p - t) * scale / divisor
        loss -= D(total)
    return loss


@compile_kernel
def _dice(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray, smooth: float) -> np.float64:
    count, length = grad.shape
    loss = D(0)
    for plane in range(count):
        product = D(0)
        total = D(0)
        for i in range(length):
            p = probabilities[plane, i]
            t = targets[plane, i]
            product += D(p) * D(t)
            total += D(p) + D(t)
        numerator = D(2) * product + smooth
        denominator = total + smooth
        loss += D(1) - numerator / denominator
        by_target = F(-2 / denominator / count)
        constant = F(numerator / (denominator * denominator) / count)
        for i in range(length):
            grad[plane, i] = by_target * targets[plane, i] + constant
    return loss / count


@compile_kernel
def _mean_squared_error(
    predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray, scale: np.float32
) -> np.float64:
    loss = D(0)
    for i in range(grad.size):
        difference = predictions[i] - targets[i]
        loss += D(difference) * D(difference)
        grad[i] = scale * difference
    return loss


def softmax_cross_entropy(logits: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """- sum over classes of targets * log softmax(logits), mean over pixels and batch.

    All float32 (N,C) or (N,C,H,W); targets are one-hot or probabilities, classes on axis 1.
    """
    count = logits.size // logits.shape[1]
    return _softmax_cross_entropy(planes(logits), planes(targets), planes(grad), F(1 / count)) / count


def cross_entropy(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """The same of given probabilities (a softmax's output); the logarithm is kept at -100 and above."""
    count = probabilities.size // probabilities.shape[1]
    return _cross_entropy(flat(probabilities), flat(targets), flat(grad), F(1 / count)) / count


def sigmoid_binary_cross_entropy(logits: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """Binary cross-entropy of sigmoid(logits), mean over every element. float32, any one shape."""
    size = logits.size
    return _sigmoid_binary_cross_entropy(flat(logits), flat(targets), flat(grad), F(1 / size)) / size


def binary_cross_entropy(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """- targets log p - (1 - targets) log (1 - p), mean over every element; clamped as PyTorch's."""
    size = probabilities.size
    return _binary_cross_entropy(flat(probabilities), flat(targets), flat(grad), F(1 / size)) / size


def dice(probabilities: np.ndarray, targets: np.ndarray, grad: np.ndarray, smooth: float = 1.0) -> float:
    """1 - mean over samples and channels of (2 sum(p t) + smooth) / (sum p + sum t + smooth).

    float32 (N,C,...); the inner sums run over a channel's pixels (Milletari et al. 2016, but with plain sums
    below the line). An empty channel predicted empty has loss 0, or NaN if smooth is 0.
    """
    count = grad.shape[0] * grad.shape[1]
    return float(
        _dice(
            probabilities.reshape(count, -1, copy=False),
            targets.reshape(count, -1, copy=False),
            grad.reshape(count, -1, copy=False),
            float(smooth),
        )
    )


def mean_squared_error(predictions: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """(predictions - targets)^2, mean over every element. float32, any one shape."""
    size = predictions.size
    total = _mean_squared_error(flat(predictions), flat(targets), flat(grad), F(2 / size))
    return total / size if size else math.nan
