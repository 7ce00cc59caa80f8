"""Recurrent layers over whole sequences: LSTM, GRU and simple RNN.

The products with the inputs of all time steps, and those of the weight gradients, are one matrix product of
BLAS each; a time step is one product with the recurrent weights and one pass over the gates.

Shapes: x (N,T,F) is N samples of T steps; out is (N,T,H), or (N,H) for the last step alone. Weights lie as
ONNX has them, in one direction: weight (1,GH,F), recurrent_weight (1,GH,H), bias (1,2GH) with those of the
input in its first half, where G gates follow each other: input, output, forget, cell for LSTM (G=4); update,
reset, hidden for GRU (G=3); one for RNN. Formulas: ONNX operators LSTM, GRU (linear_before_reset=1) and RNN
(Hochreiter and Schmidhuber, 1997; Gers et al., 2000; Cho et al., 2014), which PyTorch computes too. The first
hidden and cell states are zero.

What forward saves for backward, all float32: gates (N,T,GH), which backward overwrites with their gradients;
hidden (N,T,H), the hidden state before each step; and memory (N,T,H), the LSTM's cell state after each step,
the GRU's recurrent part of the hidden gate, None for RNN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.exponential import exponential, hyperbolic_tangent
from dhhpc_kernels.parallel import run_shares

F = np.float32

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
# An exponential takes as long as this many floats that are only read or written.
_WORK = 8


def recurrent_workspace(kind: str, samples: int, units: int) -> int:
    """The float32 numbers that forward and backward need as workspace; kind: "lstm", "gru", "rnn_tanh" or
    "rnn_relu"."""
    return samples * units * (GATES[kind] + 3)


def recurrent_forward(
    kind: str,
    x: np.ndarray,
    weight: np.ndarray,
    recurrent_weight: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray | None,
    workspace: np.ndarray,
) -> None:
    """out = the hidden states of a recurrent layer; shapes and what is saved: see the module."""
    samples, steps, _ = x.shape
    width = gates.shape[2]
    np.matmul(_rows(x), weight[0].T, out=_rows(gates))
    products = workspace[: samples * width].reshape(samples, width)
    products.fill(0)
    hidden[:, 0] = 0
    step = _FORWARD[kind]
    written = out.reshape(samples, -1, hidden.shape[2])
    for time in range(steps):
        if time:
            np.matmul(hidden[:, time], recurrent_weight[0].T, out=products)
        _over_samples(step, gates, products, bias[0], hidden, memory, written, time)


def recurrent_backward(
    kind: str,
    x: np.ndarray,
    weight: np.ndarray,
    recurrent_weight: np.ndarray,
    grad_out: np.ndarray,
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray | None,
    grad_x: np.ndarray | None,
    grad_weight: np.ndarray,
    grad_recurrent_weight: np.ndarray,
    grad_bias: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradients of recurrent_forward, given what it saved; `gates` and `memory` are overwritten."""
    samples, steps, units = hidden.shape
    size = samples * units
    carried, through_products, partial = workspace[: 3 * size].reshape(3, samples, units)
    carried.fill(0)
    through_products.fill(0)
    step = _BACKWARD[kind]
    read = grad_out.reshape(samples, -1, units)
    recurrent = recurrent_weight[0]
    # GRU's hidden gate alone sends another gradient to its recurrent part: it lies in `memory`.
    shared = 2 * units if kind == "gru" else gates.shape[2]
    for time in reversed(range(steps)):
        _over_samples(step, gates, hidden, memory, read, through_products, carried, time)
        if time:
            np.matmul(gates[:, time, :shared], recurrent[:shared], out=through_products)
            if memory is not None and kind == "gru":
                np.matmul(memory[:, time], recurrent[shared:], out=partial)
                np.add(through_products, partial, out=through_products)
    slopes, before = _rows(gates), _rows(hidden)
    if grad_x is not None:
        np.matmul(slopes, weight[0], out=_rows(grad_x))
    np.matmul(slopes.T, _rows(x), out=grad_weight[0])
    np.matmul(slopes[:, :shared].T, before, out=grad_recurrent_weight[0, :shared])
    of_inputs, of_products = grad_bias.reshape(2, -1)
    np.sum(slopes, axis=0, out=of_inputs)
    np.copyto(of_products, of_inputs)
    if memory is not None and kind == "gru":
        np.matmul(_rows(memory).T, before, out=grad_recurrent_weight[0, shared:])
        np.sum(_rows(memory), axis=0, out=of_products[shared:])


def _rows(array: np.ndarray) -> np.ndarray:
    """(N,T,K) as (NT,K), never a copy. ValueError if it is not contiguous."""
    return array.reshape(-1, array.shape[2], copy=False)


def _over_samples(step: Callable[..., None], gates: np.ndarray, *arguments: Any) -> None:
    samples, _, width = gates.shape
    run_shares(step, samples, _WORK * samples * width, gates, *arguments)


# The compiler vectorises a loop only over few arrays, as it checks that they do not overlap: hence one short
# loop a gate, over rows that stay in the first-level cache.


@compile_kernel
def _add(row: np.ndarray, product: np.ndarray, bias: np.ndarray) -> None:
    """row += product + both halves of bias"""
    for k in range(row.size):
        row[k] += product[k] + (bias[k] + bias[row.size + k])


@compile_kernel
def _sigmoid(row: np.ndarray) -> None:
    for k in range(row.size):
        row[k] = F(1) / (F(1) + exponential(-row[k]))


@compile_kernel
def _tanh(row: np.ndarray) -> None:
    for k in range(row.size):
        row[k] = hyperbolic_tangent(row[k])


@compile_kernel
def _keep(state: np.ndarray, hidden: np.ndarray, out: np.ndarray, n: int, time: int) -> None:
    """Write a new hidden state to where the next step and the caller read it."""
    if time + 1 < hidden.shape[1]:
        hidden[n, time + 1, :] = state
    if out.shape[1] == hidden.shape[1]:
        out[n, time, :] = state
    elif time + 1 == hidden.shape[1]:
        out[n, 0, :] = state


@compile_kernel
def _lstm_forward(
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    out: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    units = hidden.shape[2]
    state = np.empty(units, np.float32)
    for n in range(first, last):
        row = gates[n, time]
        _add(row, products[n], bias)
        _sigmoid(row[: 3 * units])
        _tanh(row[3 * units :])
        enter = row[:units]
        leave = row[units : 2 * units]
        forget = row[2 * units : 3 * units]
        candidate = row[3 * units :]
        cell = memory[n, time]
        if time:
            earlier = memory[n, time - 1]
            for j in range(units):
                cell[j] = forget[j] * earlier[j] + enter[j] * candidate[j]
        else:
            for j in range(units):
                cell[j] = enter[j] * candidate[j]
        for j in range(units):
            state[j] = leave[j] * hyperbolic_tangent(cell[j])
        _keep(state, hidden, out, n, time)


@compile_kernel
def _gru_forward(
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    out: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    units = hidden.shape[2]
    state = np.empty(units, np.float32)
    of_inputs = bias[2 * units : 3 * units]
    of_products = bias[5 * units :]
    for n in range(first, last):
        row = gates[n, time]
        for k in range(2 * units):
            row[k] += products[n, k] + (bias[k] + bias[3 * units + k])
        _sigmoid(row[: 2 * units])
        update = row[:units]
        reset = row[units : 2 * units]
        candidate = row[2 * units :]
        product = products[n, 2 * units :]
        recurrent = memory[n, time]
        for j in range(units):
            recurrent[j] = product[j] + of_products[j]
        for j in range(units):
            candidate[j] += of_inputs[j] + reset[j] * recurrent[j]
        _tanh(candidate)
        before = hidden[n, time]
        for j in range(units):
            state[j] = candidate[j] + update[j] * (before[j] - candidate[j])
        _keep(state, hidden, out, n, time)


@compile_kernel
def _rnn_tanh_forward(
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: None,
    out: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    for n in range(first, last):
        row = gates[n, time]
        _add(row, products[n], bias)
        _tanh(row)
        _keep(row, hidden, out, n, time)


@compile_kernel
def _rnn_relu_forward(
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: None,
    out: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    for n in range(first, last):
        row = gates[n, time]
        _add(row, products[n], bias)
        for j in range(row.size):
            row[j] = F(0) if row[j] <= F(0) else row[j]
        _keep(row, hidden, out, n, time)


@compile_kernel
def _slope(
    grad_out: np.ndarray, through_products: np.ndarray, n: int, time: int, steps: int, slope: np.ndarray
) -> None:
    """slope = the gradient of the hidden state after a step: of what reads it there, and of later steps."""
    later = through_products[n]
    for j in range(slope.size):
        slope[j] = later[j]
    if grad_out.shape[1] == steps:
        line = grad_out[n, time]
        for j in range(slope.size):
            slope[j] += line[j]
    elif time + 1 == steps:
        line = grad_out[n, 0]
        for j in range(slope.size):
            slope[j] += line[j]


@compile_kernel
def _lstm_backward(
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    grad_out: np.ndarray,
    through_products: np.ndarray,
    carried: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    _, steps, units = hidden.shape
    slope = np.empty(units, np.float32)
    for n in range(first, last):
        _slope(grad_out, through_products, n, time, steps, slope)
        row = gates[n, time]
        enter = row[:units]
        leave = row[units : 2 * units]
        forget = row[2 * units : 3 * units]
        candidate = row[3 * units :]
        cell = memory[n, time]
        grad_cell = carried[n]
        for j in range(units):
            shown = hyperbolic_tangent(cell[j])
            grad_cell[j] += slope[j] * leave[j] * (F(1) - shown * shown)
            leave[j] = slope[j] * shown * leave[j] * (F(1) - leave[j])
        for j in range(units):
            entered, proposed = enter[j], candidate[j]
            enter[j] = grad_cell[j] * proposed * entered * (F(1) - entered)
            candidate[j] = grad_cell[j] * entered * (F(1) - proposed * proposed)
        if time:
            earlier = memory[n, time - 1]
            for j in range(units):
                kept = forget[j]
                forget[j] = grad_cell[j] * earlier[j] * kept * (F(1) - kept)
                grad_cell[j] *= kept
        else:
            forget[:] = F(0)


@compile_kernel
def _gru_backward(
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    grad_out: np.ndarray,
    through_products: np.ndarray,
    carried: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    _, steps, units = hidden.shape
    slope = np.empty(units, np.float32)
    for n in range(first, last):
        _slope(grad_out, through_products, n, time, steps, slope)
        direct = carried[n]
        row = gates[n, time]
        update = row[:units]
        reset = row[units : 2 * units]
        candidate = row[2 * units :]
        recurrent = memory[n, time]
        before = hidden[n, time]
        for j in range(units):
            slope[j] += direct[j]
            direct[j] = slope[j] * update[j]
        for j in range(units):
            kept, proposed = update[j], candidate[j]
            update[j] = slope[j] * (before[j] - proposed) * kept * (F(1) - kept)
            candidate[j] = slope[j] * (F(1) - kept) * (F(1) - proposed * proposed)
        for j in range(units):
            let, product = reset[j], recurrent[j]
            reset[j] = candidate[j] * product * let * (F(1) - let)
            recurrent[j] = candidate[j] * let


@compile_kernel
def _rnn_tanh_backward(
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: None,
    grad_out: np.ndarray,
    through_products: np.ndarray,
    carried: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    _, steps, units = hidden.shape
    slope = np.empty(units, np.float32)
    for n in range(first, last):
        _slope(grad_out, through_products, n, time, steps, slope)
        row = gates[n, time]
        for j in range(units):
            row[j] = slope[j] * (F(1) - row[j] * row[j])


@compile_kernel
def _rnn_relu_backward(
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: None,
    grad_out: np.ndarray,
    through_products: np.ndarray,
    carried: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    _, steps, units = hidden.shape
    slope = np.empty(units, np.float32)
    for n in range(first, last):
        _slope(grad_out, through_products, n, time, steps, slope)
        row = gates[n, time]
        for j in range(units):
            row[j] = F(0) if row[j] <= F(0) else slope[j]


_FORWARD: dict[str, Callable[..., None]] = {
    "lstm": _lstm_forward,
    "gru": _gru_forward,
    "rnn_tanh": _rnn_tanh_forward,
    "rnn_relu": _rnn_relu_forward,
}
_BACKWARD: dict[str, Callable[..., None]] = {
    "lstm": _lstm_backward,
    "gru": _gru_backward,
    "rnn_tanh": _rnn_tanh_backward,
    "rnn_relu": _rnn_relu_backward,
}
