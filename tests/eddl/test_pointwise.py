"""Activations and layers of two inputs in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

ACTIVATIONS = {
    "leaky": lambda x: eddl.LeakyReLU(x, 0.2),
    "elu": lambda x: eddl.ELU(x, 0.5),
    "exponential": lambda x: eddl.Exponential(eddl.Softsign(x)),  # kept from overflowing
    **{
        kind.__name__: kind
        for kind in (
            eddl.SELU,
            eddl.Tanh,
            eddl.Softplus,
            eddl.Softsign,
            eddl.HardSigmoid,
            eddl.SiLU,
            eddl.GELU,
        )
    },
}
PAIRS = {"multiply": eddl.Multiply, "subtract": eddl.Subtract, "maximum": eddl.Maximum}


def images(*shape):
    return np.random.default_rng(9).normal(size=shape).astype(np.float32)


def activated(name) -> eddl.Model:
    x = eddl.Input((6,))
    # Once where its input has no other reader, once where it has.
    y = ACTIVATIONS[name](eddl.Dense(x, 5))
    z = eddl.Dense(y, 5)
    return eddl.Model([x], [eddl.Dense(eddl.Add([z, ACTIVATIONS[name](z)]), 2)])


def paired(name) -> eddl.Model:
    x = eddl.Input((2, 5, 5))
    pair = PAIRS[name]
    a, b = eddl.Conv2D(x, 2, 3), eddl.Conv2D(x, 2, 3)
    y = pair([pair([a, b]), eddl.Sigmoid(a)])
    # An input without a gradient on either side, and one layer twice.
    y = pair([pair([x, y]), x])
    return eddl.Model([x], [eddl.Conv2D(eddl.Add([pair([y, y]), y]), 1, 3)])


def through_onnx(net, data, path):
    net.build(seed=4)
    expected = net.predict([data])[0]
    eddl.export_onnx(net, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    again = eddl.import_onnx(path)
    again.build(seed=None)
    np.testing.assert_allclose(again.predict([data])[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, tmp_path):
    check(activated(name), ["mean_squared_error"], [images(4, 6)], [images(4, 2)])
    through_onnx(activated(name), images(4, 6), tmp_path / "net.onnx")


@pytest.mark.parametrize("name", PAIRS)
def test_pair(name, tmp_path):
    check(paired(name), ["mean_squared_error"], [images(3, 2, 5, 5)], [images(3, 1, 5, 5)])
    through_onnx(paired(name), images(3, 2, 5, 5), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: eddl.LeakyReLU(x, -0.1), "alpha -0.1 must be at least 0"),
        (lambda x: eddl.Multiply([x, eddl.Dense(x, 3)]), "inputs of 4, 3; takes two of one shape"),
        (lambda x: eddl.Maximum([x, x, x]), "takes two of one shape"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build(eddl.Input((4,)))
