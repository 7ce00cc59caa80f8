"""Activations of one element each, beside ReLU and sigmoid. All may run in place.

One kernel holds all functions, chosen a block at a time, so that there is little to compile.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel, compile_part
from dhhpc_kernels.cpu.exponential import exponential, hyperbolic_tangent, logarithm
from dhhpc_kernels.cpu.views import BLOCK, flat
from dhhpc_kernels.parallel import run_shares

F = np.float32
_LEAKY_RELU, _ELU, _TANH, _SOFTPLUS, _SOFTSIGN, _HARD_SIGMOID, _EXPONENTIAL, _SILU, _GELU = range(9)
_CODES = {
    "leaky_relu": _LEAKY_RELU,
    "elu": _ELU,
    "tanh": _TANH,
    "softplus": _SOFTPLUS,
    "softsign": _SOFTSIGN,
    "hard_sigmoid": _HARD_SIGMOID,
    "exponential": _EXPONENTIAL,
    "silu": _SILU,
    "gelu": _GELU,
}


@compile_part
def _power_less_one(x: np.float32) -> np.float32:
    """exp(x) - 1 for x up to 0, with all digits near 0."""
    t = hyperbolic_tangent(F(0.5) * x)
    return F(2) * t / (F(1) - t)


@compile_part
def _softplus(x: np.float32) -> np.float32:
    """log(1 + exp(x)) without overflow; exp(x) itself where 1 would swallow it."""
    power = exponential(-abs(x))
    tail = power * (F(1) - F(0.5) * power) if power < F(1e-3) else logarithm(F(1) + power)
    return (x if x > F(0) else F(0)) + tail


@compile_part
def _normal(x: np.float32) -> np.float32:
    """The normal distribution function, within 1e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    z = abs(x) * F(0.70710678118654752)
    t = F(1) / (F(1) + F(0.3275911) * z)
    p = F(1.061405429) * t - F(1.453152027)
    p = p * t + F(1.421413741)
    p = p * t - F(0.284496736)
    p = p * t + F(0.254829592)
    tail = F(0.5) * p * t * exponential(-z * z)
    return tail if x < F(0) else F(1) - tail


@compile_kernel
def _forward(
    code: int, alpha: np.float32, scale: np.float32, x: np.ndarray, out: np.ndarray, first: int, last: int
) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = x[start:stop]
        size = value.size
        if code == _LEAKY_RELU:
            for i in range(size):
                buffer[i] = value[i] if value[i] > F(0) else alpha * value[i]
        elif code == _ELU:
            for i in range(size):
                buffer[i] = scale * (value[i] if value[i] > F(0) else alpha * _power_less_one(value[i]))
        elif code == _TANH:
            for i in range(size):
                buffer[i] = hyperbolic_tangent(value[i])
        elif code == _SOFTPLUS:
            for i in range(size):
                buffer[i] = _softplus(value[i])
        elif code == _SOFTSIGN:
            for i in range(size):
                buffer[i] = value[i] / (F(1) + abs(value[i]))
        elif code == _HARD_SIGMOID:
            for i in range(size):
                line = F(0.2) * value[i] + F(0.5)
                buffer[i] = F(0) if line < F(0) else F(1) if line > F(1) else line
        elif code == _EXPONENTIAL:
            for i in range(size):
                buffer[i] = exponential(value[i])
        elif code == _SILU:
            for i in range(size):
                buffer[i] = value[i] / (F(1) + exponential(-value[i]))
        else:
            for i in range(size):
                buffer[i] = value[i] * _normal(value[i])
        target = out[start:stop]
        for i in range(size):
            target[i] = buffer[i]


@compile_kernel
def _backward(
    code: int,
    alpha: np.float32,
    scale: np.float32,
    source: np.ndarray,
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    first: int,
    last: int,
) -> None:
    buffer = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        value = source[start:stop]
        gradient = grad_out[start:stop]
        size = value.size
        if code == _LEAKY_RELU:
            for i in range(size):
                buffer[i] = gradient[i] if value[i] > F(0) else alpha * gradient[i]
        elif code == _ELU:
            for i in range(size):
                buffer[i] = gradient[i] * (scale if value[i] > F(0) else value[i] + scale * alpha)
        elif code == _TANH:
            for i in range(size):
                buffer[i] = gradient[i] * (F(1) - value[i] * value[i])
        elif code == _SOFTPLUS:
            for i in range(size):
                buffer[i] = -gradient[i] * _power_less_one(-value[i])
        elif code == _SOFTSIGN:
            for i in range(size):
                rest = F(1) - abs(value[i])
                buffer[i] = gradient[i] * rest * rest
        elif code == _HARD_SIGMOID:
            for i in range(size):
                inside = (value[i] > F(0)) & (value[i] < F(1))
                buffer[i] = F(0.2) * gradient[i] if inside else F(0)
        elif code == _EXPONENTIAL:
            for i in range(size):
                buffer[i] = gradient[i] * value[i]
        elif code == _SILU:
            for i in range(size):
                share = F(1) / (F(1) + exponential(-value[i]))
                buffer[i] = gradient[i] * share * (F(1) + value[i] * (F(1) - share))
        else:
            for i in range(size):
                density = F(0.39894228040143268) * exponential(F(-0.5) * value[i] * value[i])
                buffer[i] = gradient[i] * (_normal(value[i]) + value[i] * density)
        target = grad_x[start:stop]
        for i in range(size):
            target[i] = buffer[i]


def activation_forward(
    function: str, x: np.ndarray, out: np.ndarray, alpha: float = 1.0, scale: float = 1.0
) -> None:
    """out = function of each element of x, float32 of any shape.

    leaky_relu: x, alpha x below 0. elu: scale x, scale alpha (exp(x) - 1) below 0; SELU with its constants.
    tanh, exponential. softplus: log(1 + exp(x)). softsign: x / (1 + |x|). hard_sigmoid: x / 5 + 1/2 within 0
    and 1. silu: x / (1 + exp(-x)). gelu: x times the normal distribution function of x.
    """
    arrays = flat(x), flat(out)
    run_shares(_forward, out.size, out.size, _CODES[function], F(alpha), F(scale), *arrays)


def activation_backward(
    function: str,
    source: np.ndarray,
    grad_out: np.ndarray,
    grad_x: np.ndarray,
    alpha: float = 1.0,
    scale: float = 1.0,
) -> None:
    """grad_x = grad_out times the function's slope. source: x for silu and gelu, out for all others.

    From out the slope can only be told where alpha is not below 0.
    """
    arrays = flat(source), flat(grad_out), flat(grad_x)
    run_shares(_backward, grad_x.size, grad_x.size, _CODES[function], F(alpha), F(scale), *arrays)
