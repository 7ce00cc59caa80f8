"""Pooling of lines, images and volumes in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

SIZES = {1: (21,), 2: (9, 11), 3: (7, 8, 6)}
MAX = {1: eddl.MaxPool1D, 2: eddl.MaxPool2D, 3: eddl.MaxPool3D}
AVERAGE = {1: eddl.AveragePool1D, 2: eddl.AveragePool2D, 3: eddl.AveragePool3D}


def images(*shape):
    return np.random.default_rng(6).normal(size=shape).astype(np.float32)


def network(dimensions: int) -> eddl.Model:
    x = eddl.Input((2, *SIZES[dimensions]))
    # Weights before the pooling, so that gradients go through it.
    y = eddl.BatchNormalization(x)
    y = eddl.Concat([MAX[dimensions](y, 3, 2, 1), AVERAGE[dimensions](y, 3, 2, 1)])
    y = eddl.Add([eddl.GlobalAveragePool(y), eddl.GlobalMaxPool(y)])
    return eddl.Model([x], [eddl.Dense(eddl.Flatten(y), 3)])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_gradients_equal_pytorch(dimensions):
    data = images(3, 2, *SIZES[dimensions])
    check(network(dimensions), ["mean_squared_error"], [data], [images(3, 3)])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_onnx(dimensions, tmp_path):
    net = network(dimensions)
    net.build(seed=4)
    data = images(3, 2, *SIZES[dimensions])
    expected = net.predict([data])[0]
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    assert np.abs(theirs - expected).max() < 1e-5
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert np.array_equal(again.predict([data])[0], expected)


def test_volumes_of_another_size_go_through_onnx(tmp_path):
    x = eddl.Input((1, 4, 4, 4))
    net = eddl.Model([x], [eddl.MaxPool3D(x, (1, 2, 2))])
    net.build()
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    data = images(2, 1, 3, 8, 6)
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    assert np.array_equal(theirs, net.predict([data])[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: eddl.MaxPool1D(eddl.Input((2, 8, 8))), r"\(channels, length\) is expected"),
        (lambda: eddl.AveragePool3D(eddl.Input((2, 8, 8))), r"\(channels, depth, height, width\)"),
        (
            lambda: eddl.MaxPool3D(eddl.Input((2, 8, 8, 8)), (2, 2)),
            r"one number or 3 \(depth, height, width\)",
        ),
        (lambda: eddl.MaxPool3D(eddl.Input((2, 8, 2, 8)), 3), "does not fit in an input of 8x2x8"),
        (lambda: eddl.GlobalAveragePool(eddl.Input((2,))), "one to three axes"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build()
