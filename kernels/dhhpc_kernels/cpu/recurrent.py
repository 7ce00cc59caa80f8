"""Recurrent layers over whole sequences: LSTM, GRU and simple RNN.

The products with the inputs of all time steps are one matrix product, and so is each weight gradient.

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

from typing import NamedTuple

import numpy as np

from dhhpc_kernels.cpu.matrix_product import matrix_product, matrix_product_workspace
from dhhpc_kernels.cpu.microkernel import COLUMNS, ROWS
from dhhpc_kernels.cpu.panels import pack_panels, panels
from dhhpc_kernels.cpu.recurrent_steps import (
    GRU,
    LSTM,
    RNN_RELU,
    RNN_TANH,
    backward_step,
    forward_step,
)
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_shares


class Kind(NamedTuple):
    """A kind of recurrent layer: its number in the kernels, and how many gates it has."""

    number: int
    gates: int


KINDS = {
    "lstm": Kind(LSTM, 4),
    "gru": Kind(GRU, 3),
    "rnn_tanh": Kind(RNN_TANH, 1),
    "rnn_relu": Kind(RNN_RELU, 1),
}
# What shares of work are counted in is a float that is read or written: it takes as long as this many
# multiplications, and a gate's function as long as this many floats.
_PRODUCTS, _FUNCTION = 32, 16


def recurrent_workspace(kind: str, samples: int, steps: int, features: int, units: int) -> int:
    """The float32 numbers that forward and backward need as workspace; kind: a key of KINDS."""
    rows, width = samples * steps, KINDS[kind].gates * units
    packed = panels(units, COLUMNS) * COLUMNS * width
    states = 2 * panels(samples, ROWS) * ROWS * width
    whole = [(rows, features, width), (rows, width, features), (width, rows, features), (width, rows, units)]
    return max(
        packed + states + samples * (width + units), *(matrix_product_workspace(*sizes) for sizes in whole)
    )


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
    samples, steps, features = x.shape
    units, width = hidden.shape[2], gates.shape[2]
    check_workspace(workspace, recurrent_workspace(kind, samples, steps, features, units))
    matrix_product(_rows(x), weight[0].T, _rows(gates), workspace)
    weights, states, rest = _split(workspace, units, samples, width, units)
    size = weights.size // KINDS[kind].gates
    for gate in range(KINDS[kind].gates):
        lines = recurrent_weight[0, gate * units : (gate + 1) * units]
        _pack(lines, units, 1, units, units, weights[gate * size :])
    products = rest[: samples * width].reshape(samples, width)
    products.fill(0)
    hidden[:, 0] = 0
    written = out.reshape(samples, -1, units)
    offsets = np.arange(units) * COLUMNS
    for time in range(steps):
        run_shares(
            forward_step,
            panels(units, COLUMNS),
            _work(samples, units, width),
            KINDS[kind].number,
            gates,
            products,
            bias[0],
            hidden,
            hidden if memory is None else memory,
            written,
            weights,
            states[time % 2],
            states[1 - time % 2],
            offsets,
            time,
        )


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
    samples, steps, features = x.shape
    units, width = hidden.shape[2], gates.shape[2]
    check_workspace(workspace, recurrent_workspace(kind, samples, steps, features, units))
    weights, states, rest = _split(workspace, units, samples, width, width)
    _pack(recurrent_weight[0], 1, units, units, width, weights)
    products, carried = rest[: 2 * samples * units].reshape(2, samples, units)
    products.fill(0)
    carried.fill(0)
    read = grad_out.reshape(samples, -1, units)
    offsets = np.arange(width) * COLUMNS
    for time in reversed(range(steps)):
        run_shares(
            backward_step,
            panels(units, COLUMNS),
            _work(samples, units, width),
            KINDS[kind].number,
            gates,
            products,
            carried,
            hidden,
            hidden if memory is None else memory,
            read,
            weights,
            states[time % 2],
            states[1 - time % 2],
            offsets,
            time,
        )
    slopes, before = _rows(gates), _rows(hidden)
    if grad_x is not None:
        matrix_product(slopes, weight[0], _rows(grad_x), workspace)
    matrix_product(slopes.T, _rows(x), grad_weight[0], workspace)
    of_inputs, of_products = grad_bias.reshape(2, -1)
    np.sum(slopes, axis=0, out=of_inputs)
    np.copyto(of_products, of_inputs)
    shared = width
    if memory is not None and kind == "gru":
        # The hidden gate's recurrent product has another gradient than its input.
        shared = 2 * units
        matrix_product(_rows(memory).T, before, grad_recurrent_weight[0, shared:], workspace)
        np.sum(_rows(memory), axis=0, out=of_products[shared:])
    matrix_product(slopes[:, :shared].T, before, grad_recurrent_weight[0, :shared], workspace)


def _rows(array: np.ndarray) -> np.ndarray:
    """(N,T,K) as (NT,K), never a copy. ValueError if it is not contiguous."""
    return array.reshape(-1, array.shape[2], copy=False)


def _split(
    workspace: np.ndarray, units: int, samples: int, width: int, depth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The packed weights, two states of a depth, which take turns, and the rest."""
    weights = panels(units, COLUMNS) * COLUMNS * width
    state = panels(samples, ROWS) * ROWS * depth
    states = workspace[weights : weights + 2 * state].reshape(2, state)
    # Samples that only fill a panel up: what they hold is computed with, and left out.
    states.fill(0)
    return workspace[:weights], states, workspace[weights + 2 * state :]


def _pack(
    weights: np.ndarray, line_step: int, depth_step: int, units: int, depth: int, packed: np.ndarray
) -> None:
    run_shares(
        pack_panels,
        panels(units, COLUMNS),
        2 * weights.size,
        weights.reshape(-1),
        0,
        line_step,
        depth_step,
        units,
        depth,
        COLUMNS,
        packed,
        0,
        depth * COLUMNS,
    )


def _work(samples: int, units: int, width: int) -> int:
    return samples * width * (units // _PRODUCTS + _FUNCTION)
