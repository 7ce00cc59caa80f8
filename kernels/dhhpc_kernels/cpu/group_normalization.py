"""Normalisation of each sample by itself: group (Wu and He 2018), layer (Ba et al. 2016), instance (Ulyanov
et al. 2016).

All are one: a sample falls into `groups` equal runs of memory, each normalised by its own mean and variance;
each weight covers an equal run of elements. Sums are taken in float64.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares

F = np.float32
D = np.float64
# Gradients of weights are summed in pieces, the same for any number of threads.
_COLUMNS = 512
_SAMPLES = 64


@compile_kernel
def _forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    epsilon: float,
    begin: int,
    end: int,
) -> None:
    size = x.shape[1]
    groups, weights = gamma.shape
    run = size // weights
    for row in range(begin, end):
        value = x[row]
        total = D(0)
        squares = D(0)
        for i in range(size):
            number = D(value[i])
            total += number
            squares += number * number
        mean = total / size
        variance = squares / size - mean * mean
        variance = D(0) if variance < D(0) else variance
        inverse = D(1) / np.sqrt(variance + epsilon)
        saved_mean[row] = mean
        saved_inverse[row] = inverse
        center = F(mean)
        slope = gamma[row % groups]
        shift = beta[row % groups]
        if run == 1:
            target = out[row]
            for i in range(size):
                target[i] = (value[i] - center) * (slope[i] * F(inverse)) + shift[i]
        else:
            for k in range(weights):
                source = x[row, k * run : (k + 1) * run]
                target = out[row, k * run : (k + 1) * run]
                for i in range(run):
                    target[i] = (source[i] - center) * (slope[k] * F(inverse)) + shift[k]


@compile_kernel
def _backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    gamma: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    grad_x: np.ndarray,
    sums: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """grad_x; where a weight covers several elements also its two sums over them, for its gradients."""
    size = x.shape[1]
    groups, weights = gamma.shape
    run = size // weights
    for row in range(begin, end):
        center = F(saved_mean[row])
        inverse = D(saved_inverse[row])
        slope = gamma[row % groups]
        total = D(0)
        product = D(0)
        if run == 1:
            value = x[row]
            gradient = grad_out[row]
            for i in range(size):
                weighted = D(gradient[i] * slope[i])
                total += weighted
                product += weighted * D(value[i] - center)
        else:
            for k in range(weights):
                value = x[row, k * run : (k + 1) * run]
                gradient = grad_out[row, k * run : (k + 1) * run]
                part = D(0)
                part_product = D(0)
                for i in range(run):
                    number = D(gradient[i])
                    part += number
                    part_product += number * D(value[i] - center)
                sums[row, k, 0] = part_product * inverse
                sums[row, k, 1] = part
                total += D(slope[k]) * part
                product += D(slope[k]) * part_product
        mean = F(total / size)
        fall = F(product * inverse * inverse / size)
        scale = F(inverse)
        if run == 1:
            value = x[row]
            gradient = grad_out[row]
            target = grad_x[row]
            for i in range(size):
                target[i] = scale * (slope[i] * gradient[i] - mean - (value[i] - center) * fall)
        else:
            for k in range(weights):
                value = x[row, k * run : (k + 1) * run]
                gradient = grad_out[row, k * run : (k + 1) * run]
                target = grad_x[row, k * run : (k + 1) * run]
                for i in range(run):
                    target[i] = scale * (slope[k] * gradient[i] - mean - (value[i] - center) * fall)


@compile_kernel
def _backward_weights(
    x: np.ndarray,
    grad_out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse: np.ndarray,
    sums: np.ndarray,
    begin: int,
    end: int,
) -> None:
    """Of weights that cover one element each, sums over pieces of the samples (pieces,groups,2,weights)."""
    pieces, groups, _, weights = sums.shape
    blocks = (weights + _COLUMNS - 1) // _COLUMNS
    samples = x.shape[0] // groups
    for unit in range(begin, end):
        piece = unit // (groups * blocks)
        group = unit // blocks % groups
        first = unit % blocks * _COLUMNS
        products = sums[piece, group, 0, first : first + _COLUMNS]
        totals = sums[piece, group, 1, first : first + _COLUMNS]
        products[:] = D(0)
        totals[:] = D(0)
        for n in range(samples * piece // pieces, samples * (piece + 1) // pieces):
            row = n * groups + group
            center = F(saved_mean[row])
            inverse = F(saved_inverse[row])
            value = x[row, first : first + _COLUMNS]
            gradient = grad_out[row, first : first + _COLUMNS]
            for i in range(value.size):
                products[i] += D(gradient[i] * ((value[i] - center) * inverse))
                totals[i] += D(gradient[i])


def _check(x: np.ndarray, gamma: np.ndarray, groups: int) -> None:
    size = x.size // max(x.shape[0], 1)
    if gamma.size % groups or size % gamma.size:
        raise ValueError(f"{gamma.size} weights in {groups} groups do not fit samples of {x.shape[1:]}")


def group_normalization_forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse_deviation: np.ndarray,
    groups: int,
    epsilon: float,
) -> None:
    """out = (x - mean) / sqrt(variance + epsilon) * gamma + beta with the statistics of a group of a sample.

    x, out: (N,C,...) float32. Of C weights each covers its channel, of as many as a sample has elements each
    covers one. groups divides the number of weights: 1 is layer, C instance normalisation. saved_mean and
    saved_inverse_deviation, 1 / sqrt(variance + epsilon), (N*groups,), are for the backward pass.

    Raises ValueError if groups do not divide the weights or the weights a sample.
    """
    _check(x, gamma, groups)
    rows = x.shape[0] * groups
    run_shares(
        _forward,
        rows,
        x.size,
        x.reshape(rows, -1, copy=False),
        gamma.reshape(groups, -1),
        beta.reshape(groups, -1),
        out.reshape(rows, -1, copy=False),
        saved_mean,
        saved_inverse_deviation,
        float(epsilon),
    )


def group_normalization_backward(
    x: np.ndarray,
    grad_out: np.ndarray,
    gamma: np.ndarray,
    saved_mean: np.ndarray,
    saved_inverse_deviation: np.ndarray,
    grad_x: np.ndarray,
    grad_gamma: np.ndarray,
    grad_beta: np.ndarray,
    groups: int,
) -> None:
    """Gradients by x (may be written over grad_out), gamma and beta."""
    _check(x, gamma, groups)
    rows = x.shape[0] * groups
    weights = gamma.size // groups
    values = x.reshape(rows, -1, copy=False)
    slopes = grad_out.reshape(rows, -1, copy=False)
    saved = saved_mean, saved_inverse_deviation
    of_one_element = values.shape[1] == weights
    if of_one_element:  # before grad_out is overwritten
        pieces = max(1, min(8, x.shape[0] // _SAMPLES))
        totals = np.empty((pieces, groups, 2, weights), D)
        units = pieces * groups * -(-weights // _COLUMNS)
        run_shares(_backward_weights, units, 2 * x.size, values, slopes, *saved, totals)
        by_weight = totals.sum(axis=0)
        grad_gamma[...] = by_weight[:, 0].reshape(gamma.shape)
        grad_beta[...] = by_weight[:, 1].reshape(gamma.shape)
    sums = np.empty((0 if of_one_element else rows, weights, 2), D)
    run_shares(
        _backward,
        rows,
        2 * x.size,
        values,
        slopes,
        gamma.reshape(groups, weights),
        *saved,
        grad_x.reshape(rows, -1, copy=False),
        sums,
    )
    if not of_one_element:
        by_weight = sums.reshape(x.shape[0], gamma.size, 2).sum(axis=0)
        grad_gamma[...] = by_weight[:, 0].reshape(gamma.shape)
        grad_beta[...] = by_weight[:, 1].reshape(gamma.shape)
