"""Batch normalization (Ioffe and Szegedy 2015) over every axis but the channels', with what often follows it:
the sum with a second input, and a (leaky) ReLU, in the same pass.

With `sum_over_ranks` the statistics are those of the batches of all ranks. It replaces a float64 vector by
its sum over the ranks; its `share` is what a rank's gradients are multiplied by before those of all ranks are
summed.
"""

from typing import Protocol

import numpy as np

from dhhpc_kernels.cpu.batch_normalization_loops import (
    channel_sums,
    gradient_sums,
    normalize_backward,
    normalize_inference,
    normalize_training,
)
from dhhpc_kernels.cpu.views import planes
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64


class SumOverRanks(Protocol):
    """What the kernels need of the ranks."""

    share: float

    def __call__(self, vector: np.ndarray) -> None: ...


def _over_ranks(sums: np.ndarray, count: int, sum_over_ranks: SumOverRanks) -> float:
    """Replace sums by those over the ranks; returns the count over the ranks."""
    vector = np.append(sums, D(count))
    sum_over_ranks(vector)
    sums[...] = vector[:-1].reshape(sums.shape)
    return float(vector[-1])


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
    sum_over_ranks: SumOverRanks | None = None,
) -> None:
    """out = f((x - mean) / sqrt(variance + epsilon) * gamma + beta + skip) with the statistics of this batch,
    where f(y) = y for y > 0, else slope * y: nothing by default, ReLU with 0, a leaky ReLU in between.

    x, skip, out (may be written over x or skip): (N,C) or (N,C,H,W) float32; the others (C,). The running
    statistics become (1 - momentum) * running + momentum * batch, with the unbiased variance as in PyTorch (0
    for one element a channel). saved_mean and saved_inverse_deviation, 1 / sqrt(variance + epsilon), are for
    the backward pass, which reads x too.
    """
    channels = x.shape[1]
    sums, count = np.empty((channels, 2), D), float(x.size // channels)
    if sum_over_ranks is not None:
        run_shares(channel_sums, channels, x.size, planes(x), sums)
        count = _over_ranks(sums, x.size // channels, sum_over_ranks)
    run_shares(
        normalize_training,
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
        sums,
        count,
        sum_over_ranks is not None,
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
        normalize_inference,
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
    sum_over_ranks: SumOverRanks | None = None,
) -> None:
    """Gradients by x (may be written over grad_out), gamma and beta (C,) of the training-mode forward.

    grad_addend: a second part of the gradient by out, if it comes in two.
    out: what forward wrote, needed if it had a skip; without one its sign is computed again.
    grad_skip: the gradient by skip (may be written over grad_out, but not over grad_x), if wanted.
    sum_over_ranks: as in forward. The gradients by gamma and beta are this rank's alone.
    """
    channels = x.shape[1]
    kept = grad_x if grad_skip is None else grad_skip
    source = grad_out if grad_addend is None and out is None else kept
    sums, count = np.empty((channels, 2), D), float(x.size // channels)
    arguments = (
        planes(x),
        planes(grad_out),
        planes(grad_out if grad_addend is None else grad_addend),
        planes(x if out is None else out),
        gamma,
        beta,
        saved_mean,
        saved_inverse_deviation,
        planes(kept),
        grad_gamma,
        grad_beta,
        F(slope),
        grad_addend is not None,
        out is not None,
        np.may_share_memory(kept, grad_out),
        sums,
    )
    if sum_over_ranks is not None:
        run_shares(gradient_sums, channels, x.size, *arguments)
        share = sum_over_ranks.share
        sums *= share
        count = _over_ranks(sums, x.size // channels, sum_over_ranks)
        sums *= 1 / share if share else 0
    run_shares(
        normalize_backward,
        channels,
        x.size,
        *arguments,
        planes(grad_x),
        count,
        sum_over_ranks is not None,
        np.may_share_memory(grad_x, source),
    )
