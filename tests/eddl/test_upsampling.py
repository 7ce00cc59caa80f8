"""Upsampling of lines, images and volumes in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

SIZES = {1: (9,), 2: (4, 5), 3: (3, 4, 2)}
KINDS = {1: eddl.UpSampling1D, 2: eddl.UpSampling2D, 3: eddl.UpSampling3D}


def images(*shape):
    return np.random.default_rng(8).normal(size=shape).astype(np.float32)


def network(dimensions: int, linear: bool) -> eddl.Model:
    x = eddl.Input((2, *SIZES[dimensions]))
    kind = KINDS[dimensions]
    scale = (3, 2, 1)[:dimensions]
    return eddl.Model([x], [kind(eddl.BatchNormalization(x), scale, kind.linear if linear else "nearest")])


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_gradients_equal_pytorch(dimensions, linear):
    net = network(dimensions, linear)
    data = images(3, 2, *SIZES[dimensions])
    check(net, ["mean_squared_error"], [data], [images(3, *net.outputs[0].shape)])


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_onnx(dimensions, linear, tmp_path):
    net = network(dimensions, linear)
    net.build(seed=4)
    data = images(3, 2, *SIZES[dimensions])
    expected = net.predict([data])[0]
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    assert np.abs(theirs - expected).max() < 1e-5
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert type(again.layers[-1]) is type(net.layers[-1])
    assert again.layers[-1].mode == net.layers[-1].mode
    assert np.array_equal(again.predict([data])[0], expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: eddl.UpSampling1D(eddl.Input((2, 8, 8))), r"\(channels, length\) is expected"),
        (lambda: eddl.UpSampling3D(eddl.Input((2, 8, 8, 8)), 2, "linear"), "choose nearest or trilinear"),
        (lambda: eddl.UpSampling3D(eddl.Input((2, 8, 8, 8)), (2, 2)), r"one number or 3"),
        (lambda: eddl.UpSampling2D(eddl.Input((2, 8, 8)), 0), "must be at least 1"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build()
