"""Recurrent layers and embeddings over whole sequences, against PyTorch in float64."""

import dhhpc_kernels
import numpy as np
import pytest
import torch
from dhhpc_kernels.cpu.recurrent import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

# Where PyTorch has each of our gates.
ORDER = {"lstm": [0, 2, 3, 1], "gru": [1, 0, 2], "rnn_tanh": [0], "rnn_relu": [0]}


def arrays(kind, samples, steps, features, units, sequences, seed=0):
    """x, weights and the gradient of out."""
    generator = np.random.default_rng([seed, samples, steps, features, units])
    rows = KINDS[kind].gates * units
    shapes = [
        (samples, steps, features),
        (1, rows, features),
        (1, rows, units),
        (1, 2 * rows),
        (samples, steps, units) if sequences else (samples, units),
    ]
    x, weight, recurrent_weight, bias, grad_out = (
        generator.normal(0, 1, shape).astype(np.float32) for shape in shapes
    )
    weight /= np.sqrt(features)
    recurrent_weight /= np.sqrt(units)
    return x, weight, recurrent_weight, bias, grad_out


def run(kernels, kind, x, weight, recurrent_weight, bias, grad_out, input_gradient=True):
    """out and all gradients, from buffers full of NaN."""
    samples, steps, features = x.shape
    rows, units = recurrent_weight.shape[1:]

    def empty(*shape):
        return np.full(shape, np.nan, np.float32)

    out, workspace = (
        empty(*grad_out.shape),
        empty(kernels.recurrent_workspace(kind, samples, steps, features, units)),
    )
    states = empty(samples, steps, rows), empty(samples, steps, units)
    memory = empty(samples, steps, units) if kind in ("lstm", "gru") else None
    kernels.recurrent_forward(kind, x, weight, recurrent_weight, bias, out, *states, memory, workspace)
    workspace.fill(np.nan)
    gradients = [empty(*array.shape) for array in (x, weight, recurrent_weight, bias)]
    if not input_gradient:
        gradients[0] = None
    kernels.recurrent_backward(
        kind, x, weight, recurrent_weight, grad_out, *states, memory, *gradients, workspace
    )
    return [out, *gradients]


def reference(kind, x, weight, recurrent_weight, bias, grad_out):
    """The same by torch.nn."""
    rows, units = recurrent_weight.shape[1:]
    order = np.concatenate([np.arange(units) + units * gate for gate in ORDER[kind]])
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(kind, torch.nn.RNN)
    module = layer(x.shape[2], units, batch_first=True, **options).double()
    given = [weight[0], recurrent_weight[0], bias[0, :rows], bias[0, rows:]]
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), given, strict=True):
            parameter.copy_(torch.tensor(array[order].astype(np.float64)))
    inputs = torch.tensor(x.astype(np.float64), requires_grad=True)
    sequences, _ = module(inputs)
    out = sequences if grad_out.ndim == 3 else sequences[:, -1]
    out.backward(torch.tensor(grad_out.astype(np.float64)))
    back = np.argsort(order)
    gradients = [parameter.grad.numpy()[back] for parameter in module.parameters()]
    both = np.concatenate(gradients[2:])[None]
    return [out.detach().numpy(), inputs.grad.numpy(), gradients[0][None], gradients[1][None], both]


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(
    samples=st.integers(1, 4),
    steps=st.integers(1, 6),
    features=st.integers(1, 9),
    units=st.integers(1, 40),
    sequences=st.booleans(),
)
def test_equal_to_pytorch(kind, kernels, assert_close, samples, steps, features, units, sequences):
    given = arrays(kind, samples, steps, features, units, sequences)
    for ours, theirs in zip(run(kernels, kind, *given), reference(kind, *given), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_long_sequences_and_large_numbers(kind, kernels, assert_close):
    """Saturated gates neither overflow nor lose the gradient that is left."""
    x, *others = arrays(kind, 2, 60, 5, 33, sequences=True, seed=3)
    given = [x * np.float32(3 if kind == "rnn_relu" else 60), *others]
    if kind == "rnn_relu":
        given[2] = given[2] / 2
    for ours, theirs in zip(run(kernels, kind, *given), reference(kind, *given), strict=True):
        assert_close(ours, theirs, 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_gradient_of_the_input_the_others_stay(kind, kernels):
    given = arrays(kind, 3, 4, 5, 6, sequences=False)
    whole, part = run(kernels, kind, *given), run(kernels, kind, *given, input_gradient=False)
    assert part[1] is None
    for one, other in zip(whole[2:], part[2:], strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_any_number_of_threads(kind, kernels):
    """Over the least work that is shared out."""
    given = arrays(kind, 7, 3, 11, 700, sequences=True)
    before = dhhpc_kernels.threads()
    try:
        found = []
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            found.append([array.tobytes() for array in run(kernels, kind, *given)])
    finally:
        dhhpc_kernels.set_threads(before)
    assert found[0] == found[1] == found[2]


def test_nan_gets_through(kernels):
    for kind in KINDS:
        x, *others = arrays(kind, 2, 4, 3, 5, sequences=True)
        x[1, 2, 0] = np.nan
        out = run(kernels, kind, x, *others)[0]
        assert np.isfinite(out[0]).all()
        assert np.isfinite(out[1, :2]).all()
        assert np.isnan(out[1, 2:]).all()


def test_tanh_to_the_last_place(kernels):
    from dhhpc_kernels.cpu.exponential import hyperbolic_tangent

    points = np.concatenate([np.linspace(-12, 12, 4001), np.logspace(-30, 0, 500), [0, np.inf, -np.inf]])
    for x in points.astype(np.float32):
        expected = np.tanh(np.float64(x))
        assert abs(hyperbolic_tangent(x) - expected) <= 3e-7 * abs(expected)
    assert np.isnan(hyperbolic_tangent(np.float32(np.nan)))


@PROFILE
@given(samples=st.integers(1, 5), steps=st.integers(1, 9), rows=st.integers(1, 30), units=st.integers(1, 20))
def test_embedding(kernels, assert_close, draw, poisoned, samples, steps, rows, units):
    indices = np.random.default_rng([samples, steps, rows]).integers(0, rows, (samples, steps))
    table, grad_out = draw(1, rows, units), draw(2, samples, steps, units)
    out, grad_table = poisoned(samples, steps, units), poisoned(rows, units)
    kernels.embedding_forward(indices.astype(np.float32), table, out)
    kernels.embedding_backward(indices.astype(np.float32), grad_out, grad_table)
    leaf = torch.tensor(table.astype(np.float64), requires_grad=True)
    expected = torch.nn.functional.embedding(torch.tensor(indices), leaf)
    expected.backward(torch.tensor(grad_out.astype(np.float64)))
    assert out.tobytes() == table[indices].tobytes()
    assert_close(grad_table, leaf.grad.numpy())


def test_embedding_gives_the_same_bits_on_any_number_of_threads(kernels, draw):
    indices = np.random.default_rng(0).integers(0, 1001, (64, 50)).astype(np.float32)
    grad_out, table = draw(3, 64, 50, 70), draw(4, 1001, 70)
    before = dhhpc_kernels.threads()
    try:
        found = []
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            out, grad_table = np.empty_like(grad_out), np.empty_like(table)
            kernels.embedding_forward(indices, table, out)
            kernels.embedding_backward(indices, grad_out, grad_table)
            found.append((out.tobytes(), grad_table.tobytes()))
    finally:
        dhhpc_kernels.set_threads(before)
    assert found[0] == found[1] == found[2]
