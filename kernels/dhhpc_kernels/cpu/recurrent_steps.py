"""One time step of the recurrent layers, forward and backward, for some blocks of units.

A step is one matrix product with what the step before left, then a pass over the gates. Each thread makes
both for its own units, so they wait for each other once a step. The state that a step leaves lies as panels
of ROWS samples, (panel, depth, ROWS), and the recurrent weights as panels of COLUMNS units, (panel, depth,
COLUMNS), as the inner loop reads them.
"""

import numpy as np

from dhhpc_kernels.compilation import compile_in_order
from dhhpc_kernels.cpu.exponential import exponential, hyperbolic_tangent
from dhhpc_kernels.cpu.microkernel import COLUMNS, ROWS, multiply_tile

F = np.float32

LSTM, GRU, RNN_TANH, RNN_RELU = range(4)

# The compiler vectorises a loop only over few arrays, as it checks that they do not overlap: hence one short
# loop a gate, over rows that stay in the first-level cache.


@compile_in_order
def _multiply_state(
    state: np.ndarray,
    weights: np.ndarray,
    panel: int,
    offsets: np.ndarray,
    products: np.ndarray,
    column: int,
    end: int,
) -> None:
    """products[:, column:end] = the state times the weights' panels from `panel` on."""
    depth = offsets.size
    samples, pitch = products.shape
    flat = products.reshape(-1)
    tile = np.empty(ROWS * COLUMNS, np.float32)
    for start in range(column, end, COLUMNS):
        width, place = min(COLUMNS, end - start), panel * depth * COLUMNS
        for top in range(0, samples, ROWS):
            target = top * pitch + start
            height = min(ROWS, samples - top)
            if height == ROWS and width == COLUMNS:
                multiply_tile(state, top * depth, offsets, 0, depth, weights, place, flat, target, pitch)
                continue
            multiply_tile(state, top * depth, offsets, 0, depth, weights, place, tile, 0, COLUMNS)
            for i in range(height):
                for j in range(width):
                    flat[target + i * pitch + j] = tile[i * COLUMNS + j]
        panel += 1


@compile_in_order
def _leave(
    values: np.ndarray, time: int, begin: int, end: int, state: np.ndarray, depth: int, place: int
) -> None:
    """Pack values[:, time, begin:end] into the state, from depth `place` on."""
    samples = values.shape[0]
    for top in range(0, samples, ROWS):
        for i in range(min(ROWS, samples - top)):
            line = values[top + i, time, begin:end]
            start = (top * depth) + place * ROWS + i
            target = state[start : start + line.size * ROWS : ROWS]
            for j in range(line.size):
                target[j] = line[j]


@compile_in_order
def _add(row: np.ndarray, product: np.ndarray, of_input: np.ndarray, of_product: np.ndarray) -> None:
    for k in range(row.size):
        row[k] += product[k] + (of_input[k] + of_product[k])


@compile_in_order
def _sigmoid(row: np.ndarray) -> None:
    for k in range(row.size):
        row[k] = F(1) / (F(1) + exponential(-row[k]))


@compile_in_order
def _tanh(row: np.ndarray) -> None:
    for k in range(row.size):
        row[k] = hyperbolic_tangent(row[k])


@compile_in_order
def _lstm_forward(
    gates: np.ndarray, memory: np.ndarray, n: int, time: int, begin: int, shown: np.ndarray
) -> None:
    """From the gates before their functions: the cell state, and the new hidden state in `shown`."""
    units = memory.shape[2]
    end = begin + shown.size
    row = gates[n, time]
    enter, leave = row[begin:end], row[units + begin : units + end]
    forget, candidate = row[2 * units + begin : 2 * units + end], row[3 * units + begin : 3 * units + end]
    cell = memory[n, time, begin:end]
    _sigmoid(enter)
    _sigmoid(leave)
    _sigmoid(forget)
    _tanh(candidate)
    for j in range(cell.size):
        cell[j] = enter[j] * candidate[j]
    if time:
        earlier = memory[n, time - 1, begin:end]
        for j in range(cell.size):
            cell[j] += forget[j] * earlier[j]
    for j in range(cell.size):
        shown[j] = leave[j] * hyperbolic_tangent(cell[j])


@compile_in_order
def _gru_forward(
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    n: int,
    time: int,
    begin: int,
    shown: np.ndarray,
) -> None:
    """The same, with the hidden gate's part of the input still without its product, which `memory` keeps."""
    units = memory.shape[2]
    end = begin + shown.size
    row = gates[n, time]
    update, reset = row[begin:end], row[units + begin : units + end]
    candidate = row[2 * units + begin : 2 * units + end]
    product = products[n, 2 * units + begin : 2 * units + end]
    recurrent = memory[n, time, begin:end]
    before = hidden[n, time, begin:end]
    of_input = bias[2 * units + begin : 2 * units + end]
    of_product = bias[5 * units + begin : 5 * units + end]
    _sigmoid(update)
    _sigmoid(reset)
    for j in range(shown.size):
        recurrent[j] = product[j] + of_product[j]
    for j in range(shown.size):
        candidate[j] += of_input[j] + reset[j] * recurrent[j]
    _tanh(candidate)
    for j in range(shown.size):
        shown[j] = candidate[j] + update[j] * (before[j] - candidate[j])


@compile_in_order
def forward_step(
    kind: int,
    gates: np.ndarray,
    products: np.ndarray,
    bias: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    out: np.ndarray,
    weights: np.ndarray,
    state: np.ndarray,
    following: np.ndarray,
    offsets: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    """Step `time` of the blocks of COLUMNS units from first to last; reads `state`, leaves `following`.

    gates (N,T,GH) hold the products of the inputs, products is (N,GH), bias (2GH,), hidden and memory
    (N,T,H), out (N,T,H) or (N,1,H), weights G times the panels of (H units, depth H), state and following the
    panels of (N samples, depth H).
    """
    samples, steps, units = hidden.shape
    width = gates.shape[2]
    begin, end = first * COLUMNS, min(last * COLUMNS, units)
    blocks = (units + COLUMNS - 1) // COLUMNS
    if time:
        for gate in range(width // units):
            panel = gate * blocks + first
            _multiply_state(
                state, weights, panel, offsets, products, gate * units + begin, gate * units + end
            )
    # The hidden gate of GRU gets its product later, behind the reset gate.
    added = 2 * units if kind == GRU else width
    shown = np.empty(end - begin, np.float32)
    for n in range(samples):
        for start in range(begin, added, units):
            stop = start + end - begin
            row = gates[n, time, start:stop]
            _add(row, products[n, start:stop], bias[start:stop], bias[width + start : width + stop])
        own = gates[n, time, begin:end]
        if kind == LSTM:
            _lstm_forward(gates, memory, n, time, begin, shown)
        elif kind == GRU:
            _gru_forward(gates, products, bias, hidden, memory, n, time, begin, shown)
        elif kind == RNN_TANH:
            _tanh(own)
        else:
            for j in range(own.size):
                own[j] = F(0) if own[j] <= F(0) else own[j]
        if kind in (RNN_TANH, RNN_RELU):
            shown[:] = own
        if time + 1 < steps:
            hidden[n, time + 1, begin:end] = shown
        if out.shape[1] == steps:
            out[n, time, begin:end] = shown
        elif time + 1 == steps:
            out[n, 0, begin:end] = shown
    if time + 1 < steps:
        _leave(hidden, time + 1, begin, end, following, units, begin)


@compile_in_order
def _lstm_backward(
    gates: np.ndarray,
    memory: np.ndarray,
    carried: np.ndarray,
    n: int,
    time: int,
    begin: int,
    slope: np.ndarray,
) -> None:
    """From the hidden state's gradient: the gates' in their place, the earlier cell state's in `carried`."""
    units = memory.shape[2]
    end = begin + slope.size
    row = gates[n, time]
    enter, leave = row[begin:end], row[units + begin : units + end]
    forget, candidate = row[2 * units + begin : 2 * units + end], row[3 * units + begin : 3 * units + end]
    cell = memory[n, time, begin:end]
    grad_cell = carried[n, begin:end]
    for j in range(slope.size):
        shown = hyperbolic_tangent(cell[j])
        grad_cell[j] += slope[j] * leave[j] * (F(1) - shown * shown)
        leave[j] = slope[j] * shown * leave[j] * (F(1) - leave[j])
    for j in range(slope.size):
        entered, proposed = enter[j], candidate[j]
        enter[j] = grad_cell[j] * proposed * entered * (F(1) - entered)
        candidate[j] = grad_cell[j] * entered * (F(1) - proposed * proposed)
    if time:
        earlier = memory[n, time - 1, begin:end]
        for j in range(slope.size):
            kept = forget[j]
            forget[j] = grad_cell[j] * earlier[j] * kept * (F(1) - kept)
            grad_cell[j] *= kept
    else:
        forget[:] = F(0)


@compile_in_order
def _gru_backward(
    gates: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    carried: np.ndarray,
    n: int,
    time: int,
    begin: int,
    slope: np.ndarray,
) -> None:
    """The same; `memory` gets the gradient of the recurrent product of the hidden gate, and `carried` that of
    the earlier hidden state which does not go through a product."""
    units = memory.shape[2]
    end = begin + slope.size
    row = gates[n, time]
    update, reset = row[begin:end], row[units + begin : units + end]
    candidate = row[2 * units + begin : 2 * units + end]
    recurrent = memory[n, time, begin:end]
    before = hidden[n, time, begin:end]
    direct = carried[n, begin:end]
    for j in range(slope.size):
        slope[j] += direct[j]
        direct[j] = slope[j] * update[j]
    for j in range(slope.size):
        kept, proposed = update[j], candidate[j]
        update[j] = slope[j] * (before[j] - proposed) * kept * (F(1) - kept)
        candidate[j] = slope[j] * (F(1) - kept) * (F(1) - proposed * proposed)
    for j in range(slope.size):
        let, product = reset[j], recurrent[j]
        reset[j] = candidate[j] * product * let * (F(1) - let)
        recurrent[j] = candidate[j] * let


@compile_in_order
def backward_step(
    kind: int,
    gates: np.ndarray,
    products: np.ndarray,
    carried: np.ndarray,
    hidden: np.ndarray,
    memory: np.ndarray,
    grad_out: np.ndarray,
    weights: np.ndarray,
    state: np.ndarray,
    following: np.ndarray,
    offsets: np.ndarray,
    time: int,
    first: int,
    last: int,
) -> None:
    """Step `time` of the blocks of COLUMNS units from first to last; reads `state`, leaves `following`.

    The states are the gradients of the recurrent products, panels of (N samples, depth GH); weights are
    panels of (H units, depth GH); products (N,H) and carried (N,H) are zero before the last step; gates and
    memory are as forward_step left them, and overwritten with gradients.
    """
    samples, steps, units = hidden.shape
    width = gates.shape[2]
    begin, end = first * COLUMNS, min(last * COLUMNS, units)
    if time + 1 < steps:
        _multiply_state(state, weights, first, offsets, products, begin, end)
    slope = np.empty(end - begin, np.float32)
    for n in range(samples):
        slope[:] = products[n, begin:end]
        if grad_out.shape[1] == steps or time + 1 == steps:
            line = grad_out[n, min(time, grad_out.shape[1] - 1), begin:end]
            for j in range(slope.size):
                slope[j] += line[j]
        own = gates[n, time, begin:end]
        if kind == LSTM:
            _lstm_backward(gates, memory, carried, n, time, begin, slope)
        elif kind == GRU:
            _gru_backward(gates, hidden, memory, carried, n, time, begin, slope)
        elif kind == RNN_TANH:
            for j in range(own.size):
                own[j] = slope[j] * (F(1) - own[j] * own[j])
        else:
            for j in range(own.size):
                own[j] = F(0) if own[j] <= F(0) else slope[j]
    if time:
        for start in range(begin, width, units):
            if kind == GRU and start >= 2 * units:
                _leave(memory, time, begin, end, following, width, start)
            else:
                _leave(gates, time, start, start + end - begin, following, width, start)
