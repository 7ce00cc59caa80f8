"""Kernels that share out their work give the same bits on any number of threads."""

import dhhpc_kernels
import numpy as np
import pytest

SHAPE = (3, 5, 120, 131)  # over the least work that is shared out, and divided evenly by neither 2 nor 3


def activation(kernels, name):
    def run(x, gradient):
        out, grad = np.empty_like(x), np.empty_like(x)
        getattr(kernels, f"{name}_forward")(x, out)
        getattr(kernels, f"{name}_backward")(out, gradient, grad)
        return out, grad

    return run


def softmax_of_rows(kernels, _):
    run = activation(kernels, "softmax")
    return lambda x, gradient: run(x.reshape(30, -1), gradient.reshape(30, -1))


def pointwise(kernels, name):
    def run(x, gradient):
        out, grad = np.empty_like(x), np.empty_like(x)
        kernels.activation_forward(name, x, out, 0.5)
        kernels.activation_backward(name, out, gradient, grad, 0.5)
        return out, grad

    return run


def batch_normalization(kernels, slope):
    def run(x, gradient):
        channels = x.shape[1]
        skip, grad_skip = (gradient[::-1].copy(), np.empty_like(x)) if slope < 1 else (None, None)
        gamma, beta, mean = np.full((3, channels), [[1.5], [0.5], [0.0]], np.float32)
        variance, saved_mean, saved_inverse, grad_gamma, grad_beta = np.ones((5, channels), np.float32)
        out, inferred, grad = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        kernels.batch_normalization_training(
            x, gamma, beta, mean, variance, out, saved_mean, saved_inverse, 0.1, 1e-5, skip, slope
        )
        kernels.batch_normalization_inference(x, gamma, beta, mean, variance, inferred, 1e-5, skip, slope)
        kernels.batch_normalization_backward(
            x,
            gradient,
            gamma,
            beta,
            saved_mean,
            saved_inverse,
            grad,
            grad_gamma,
            grad_beta,
            skip,
            None if skip is None else out,
            grad_skip,
            slope,
        )
        results = out, inferred, mean, variance, grad, grad_gamma, grad_beta
        return results if grad_skip is None else (*results, grad_skip)

    return run


def group_normalization(kernels, kind):
    def run(x, gradient):
        cases = {"group": (3, 6, 3), "layer": (3, x.size // 3, 1), "rows": (300, x.size // 300, 1)}
        samples, weights, groups = cases[kind]
        x, gradient = (array.reshape(samples, 6, -1) for array in (x, gradient))
        gamma, beta, grad_gamma, grad_beta = np.full((4, weights), 1.5, np.float32)
        saved_mean, saved_inverse = np.empty((2, samples * groups), np.float32)
        out, grad = np.empty_like(x), np.empty_like(x)
        kernels.group_normalization_forward(x, gamma, beta, out, saved_mean, saved_inverse, groups, 1e-5)
        kernels.group_normalization_backward(
            x, gradient, gamma, saved_mean, saved_inverse, grad, grad_gamma, grad_beta, groups
        )
        return out, grad, grad_gamma, grad_beta

    return run


def pooling(kernels, name):
    def run(x, gradient):
        out = np.empty((*x.shape[:2], 60, 66), np.float32)
        grad = np.empty_like(x)
        window = ((3, 3), (2, 2), (1, 1))
        slope = np.ascontiguousarray(gradient[:, :, :60, :66])
        if name == "max":
            indices = np.empty(out.shape, np.int32)
            kernels.max_pooling_forward(x, out, indices, *window)
            kernels.max_pooling_backward(slope, indices, grad)
        else:
            kernels.average_pooling_forward(x, out, *window)
            kernels.average_pooling_backward(slope, grad, *window)
        return out, grad

    return run


def reduction(kernels, axis):
    def run(x, gradient):
        out = np.empty(x.shape[:axis] + x.shape[axis + 1 :], np.float32)
        summed, places, grad, grad_max = (
            np.empty_like(out),
            np.empty(out.shape, np.int32),
            *np.empty((2, *x.shape), "f"),
        )
        kernels.reduce_sum_forward(x, summed, axis, 1, True)
        kernels.reduce_sum_backward(summed, grad, axis, 1, True)
        kernels.reduce_max_forward(x, out, places, axis, 1)
        kernels.reduce_max_backward(out, places, grad_max, axis, 1)
        return summed, out, grad, grad_max

    return run


def upsampling(kernels, mode):
    def run(x, gradient):
        out = np.empty((*x.shape[:2], 240, 262), np.float32)
        grad = np.empty_like(x)
        kernels.upsample_forward(x, out, mode)
        kernels.upsample_backward(out, grad, mode)
        return out, grad

    return run


def dropout(kernels, _):
    def run(x, gradient):
        out = np.empty_like(x)
        kernels.dropout(x, out, 0.4, 5, 6, 7)
        return (out,)

    return run


def loss(kernels, name):
    def run(x, gradient):
        grad = np.empty_like(x)
        targets = (gradient > 0).astype(np.float32)
        value = getattr(kernels, name)(1 / (1 + np.exp(-x)), targets, grad)
        return grad, np.array(value)

    return run


def loss_of_classes(kernels, _):
    def run(x, gradient):
        rows = x.reshape(30, -1)
        grad = np.empty_like(rows)
        value = kernels.softmax_cross_entropy(rows, np.arange(30), grad)
        return grad, np.array(value)

    return run


def optimizer(kernels, name):
    def run(x, gradient):
        parameters, speed, square = (
            x.ravel().copy(),
            np.zeros(x.size, np.float32),
            np.ones(x.size, np.float32),
        )
        if name == "adam":
            kernels.adam_step(
                parameters, gradient.ravel(), speed, square, 3, 1e-3, 0.9, 0.999, 1e-8, 0.01, True
            )
        elif name == "rmsprop":
            kernels.rmsprop_step(parameters, gradient.ravel(), square, speed, 0.1, 0.9, 0.9, 1e-8, 0.01)
        elif name == "adagrad":
            kernels.adagrad_step(parameters, gradient.ravel(), square, 0.1, 1e-8, 0.01)
        elif name == "adadelta":
            kernels.adadelta_step(parameters, gradient.ravel(), square, speed, 0.1, 0.9, 1e-8, 0.01)
        elif name == "adamax":
            kernels.adamax_step(parameters, gradient.ravel(), speed, square, 3, 0.1, 0.9, 0.9, 1e-8, 0.01)
        else:
            kernels.sgd_step(
                parameters, gradient.ravel(), speed if name == "momentum" else None, 0.1, 0.9, True, 0.01
            )
        return parameters, speed, square

    return run


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (activation, "relu"),
        (activation, "sigmoid"),
        (activation, "softmax"),
        (softmax_of_rows, ""),
        (pointwise, "elu"),
        (pointwise, "gelu"),
        (batch_normalization, 1),
        (batch_normalization, 0.3),
        (group_normalization, "group"),
        (group_normalization, "layer"),
        (group_normalization, "rows"),
        (pooling, "max"),
        (pooling, "average"),
        (reduction, 0),
        (reduction, 1),
        (reduction, 3),
        (upsampling, "nearest"),
        (upsampling, "bilinear"),
        (dropout, ""),
        (loss, "softmax_cross_entropy"),
        (loss, "cross_entropy"),
        (loss, "sigmoid_binary_cross_entropy"),
        (loss, "binary_cross_entropy"),
        (loss, "dice"),
        (loss, "mean_squared_error"),
        (loss, "mean_absolute_error"),
        (loss, "huber"),
        (loss_of_classes, ""),
        (optimizer, "adam"),
        (optimizer, "sgd"),
        (optimizer, "momentum"),
        (optimizer, "rmsprop"),
        (optimizer, "adagrad"),
        (optimizer, "adadelta"),
        (optimizer, "adamax"),
    ],
)
def test_same_bits_on_any_number_of_threads(kind, name, kernels):
    generator = np.random.default_rng(0)
    x, gradient = generator.standard_normal((2, *SHAPE), np.float32)
    run = kind(kernels, name)
    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(1)
        expected = run(x, gradient)
        for threads in (2, 3):
            dhhpc_kernels.set_threads(threads)
            for result, alone in zip(run(x, gradient), expected, strict=True):
                assert result.tobytes() == alone.tobytes()
    finally:
        dhhpc_kernels.set_threads(before)
