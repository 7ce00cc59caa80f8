"""Cross-entropy of a softmax from its logits: loss and gradient in one pass over memory."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.exponential import exponential, logarithm
from dhhpc_kernels.cpu.softmax import column_maxima, largest_of
from dhhpc_kernels.cpu.views import BLOCK, planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


@compile_kernel
def _of_rows(
    logits: np.ndarray,
    targets: np.ndarray,
    classes: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Classes side by side in memory; a row stays in the second-level cache."""
    channels = logits.shape[1]
    for n in range(begin, end):
        largest = largest_of(logits[n])
        total = D(0)
        mass = D(0)
        dot = D(0)
        for first in range(0, channels, BLOCK):
            logit = logits[n, first : first + BLOCK]
            output = grad[n, first : first + BLOCK]
            sum_of_powers = F(0)
            for i in range(logit.size):
                power = exponential(logit[i] - largest)
                output[i] = power
                sum_of_powers += power
            total += D(sum_of_powers)
            if classes.size == 0:
                target = targets[n, first : first + BLOCK]
                sum_of_targets = F(0)
                product = F(0)
                for i in range(target.size):
                    sum_of_targets += target[i]
                    # A class of target 0 adds nothing, even where its logit is minus infinity.
                    product += F(0) if target[i] == F(0) else target[i] * (logit[i] - largest)
                mass += D(sum_of_targets)
                dot += D(product)
        if classes.size:
            mass = D(1)
            dot = D(logits[n, classes[n]] - largest)
        losses[n] = mass * np.log(total) - dot
        factor = F(mass * D(scale) / total)
        output = grad[n]
        if classes.size:
            for i in range(channels):
                output[i] *= factor
            output[classes[n]] -= scale
        else:
            target = targets[n]
            for i in range(channels):
                output[i] = output[i] * factor - target[i] * scale


@compile_kernel
def _targets(
    targets: np.ndarray, classes: np.ndarray, n: int, c: int, first: int, size: int, buffer: np.ndarray
) -> np.ndarray:
    """The targets of class c at some pixels."""
    if classes.size == 0:
        return targets[n, c, first : first + size]
    right = classes[n, first : first + size]
    for i in range(size):
        buffer[i] = F(1) if right[i] == c else F(0)
    return buffer[:size]


@compile_kernel
def _of_planes(
    logits: np.ndarray,
    targets: np.ndarray,
    classes: np.ndarray,
    grad: np.ndarray,
    scale: np.float32,
    losses: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Classes a plane apart: a block of pixels is taken through all classes."""
    _, channels, length = logits.shape
    blocks = (length + BLOCK - 1) // BLOCK
    largest = np.empty(BLOCK, np.float32)
    total = np.empty(BLOCK, np.float32)
    mass = np.empty(BLOCK, np.float32)
    dot = np.empty(BLOCK, np.float32)
    buffer = np.empty(BLOCK, np.float32)
    for unit in range(begin, end):
        n = unit // blocks
        first = unit % blocks * BLOCK
        size = min(BLOCK, length - first)
        column_maxima(logits, n, first, size, largest)
        for i in range(size):
            total[i] = F(0)
            mass[i] = F(0)
            dot[i] = F(0)
        for c in range(channels):
            logit = logits[n, c, first : first + size]
            target = _targets(targets, classes, n, c, first, size, buffer)
            output = grad[n, c, first : first + size]
            for i in range(size):
                shifted = logit[i] - largest[i]
                value = exponential(shifted)
                output[i] = value
                total[i] += value
                mass[i] += target[i]
                dot[i] += F(0) if target[i] == F(0) else target[i] * shifted
        loss = F(0)
        for i in range(size):
            loss += mass[i] * logarithm(total[i]) - dot[i]
            total[i] = mass[i] * scale / total[i]
        losses[unit] = loss
        for c in range(channels):
            target = _targets(targets, classes, n, c, first, size, buffer)
            output = grad[n, c, first : first + size]
            for i in range(size):
                output[i] = output[i] * total[i] - target[i] * scale


def softmax_cross_entropy(logits: np.ndarray, targets: np.ndarray, grad: np.ndarray) -> float:
    """- sum over classes of targets * log softmax(logits), mean over pixels and batch.

    logits and grad: float32 (N,C) or (N,C,...), classes on axis 1. targets: of the same shape and type,
    one-hot or probabilities, or whole numbers (N,...), each pixel's class.

    Raises ValueError for a class out of range.
    """
    batch, channels = logits.shape[:2]
    count = logits.size // channels
    length = count // batch
    if targets.dtype == logits.dtype:
        shares, classes = planes(targets), np.empty((0, 0), np.int64)
    else:
        shares, classes = np.empty((0, 0, 0), np.float32), targets.reshape(batch, length).astype(np.int64)
        if classes.min() < 0 or classes.max() >= channels:
            raise ValueError(f"classes from {classes.min()} to {classes.max()} where there are {channels}")
    of_rows = length == 1
    losses = np.empty(batch if of_rows else batch * -(-length // BLOCK), D)
    run_shares(
        _of_rows if of_rows else _of_planes,
        losses.size,
        3 * grad.size,
        logits.reshape(batch, channels) if of_rows else planes(logits),
        shares.reshape(-1, channels) if of_rows else shares,
        classes.reshape(-1) if of_rows else classes,
        grad.reshape(batch, channels, copy=False) if of_rows else planes(grad),
        F(1 / count),
        losses,
    )
    return float(losses.sum()) / count
