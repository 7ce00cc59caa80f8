"""Convolution of lines, images and volumes in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl, zoo
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

SIZES = {1: (21,), 2: (9, 12), 3: (7, 8, 6)}
CONVOLUTION = {1: eddl.Conv1D, 2: eddl.Conv2D, 3: eddl.Conv3D}
TRANSPOSED = {1: eddl.ConvTranspose1D, 2: eddl.ConvTranspose2D, 3: eddl.ConvTranspose3D}


def images(*shape):
    return np.random.default_rng(6).normal(size=shape).astype(np.float32)


def network(dimensions: int) -> eddl.Model:
    x = eddl.Input((2, *SIZES[dimensions]))
    y = eddl.ReLU(CONVOLUTION[dimensions](x, 6, 3, 2, 1, groups=2))
    y = TRANSPOSED[dimensions](y, 4, 3, 2, 1, output_padding=1)
    y = CONVOLUTION[dimensions](y, 3, 3, dilation=2)
    return eddl.Model([x], [y])


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_gradients_equal_pytorch(dimensions):
    net = network(dimensions)
    data = images(3, 2, *SIZES[dimensions])
    check(net, ["mean_squared_error"], [data], [images(3, *net.outputs[0].shape)])


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
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in net.layers]
    again.build(seed=None)
    assert np.array_equal(again.predict([data])[0], expected)


def test_unet_of_volumes():
    net = zoo.create("unet", (1, 8, 16, 12), 1, channels=[4, 6, 8])
    assert net.outputs[0].shape == (1, 8, 16, 12)
    target = (images(2, 1, 8, 16, 12) > 0).astype(np.float32)
    check(net, ["binary_cross_entropy"], [images(2, 1, 8, 16, 12)], [target])
    enlarged = zoo.create("unet", (2, 4, 4, 4), 3, channels=[2, 3], upsampling="linear")
    assert enlarged.outputs[0].shape == (3, 4, 4, 4)
    with pytest.raises(DhhpcError, match="the depth of volumes, must be multiples of 4"):
        zoo.create("unet", (1, 6, 16, 16), 1, channels=[2, 3, 4])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: eddl.Conv1D(eddl.Input((2, 8, 8)), 3, 3), r"\(channels, length\) is expected"),
        (lambda: eddl.Conv3D(eddl.Input((2, 8, 8)), 3, 3), r"\(channels, depth, height, width\)"),
        (
            lambda: eddl.Conv3D(eddl.Input((2, 8, 8, 8)), 3, (3, 3)),
            r"one number or 3 \(depth, height, width\)",
        ),
        (lambda: eddl.Conv3D(eddl.Input((2, 2, 8, 8)), 3, 3, 1, 0), "nothing is left of an input of 2x8x8"),
        (lambda: eddl.Conv1D(eddl.Input((2, 8)), 3, 4), "padding 'same' needs an odd kernel"),
        (lambda: eddl.ConvTranspose1D(eddl.Input((2, 8)), 3, 2, 2, output_padding=2), "output_padding"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build()
