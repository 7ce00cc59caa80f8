"""Layer, group and instance normalisation in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

generator = np.random.default_rng(5)


def images(*shape):
    return generator.normal(size=shape).astype(np.float32)


KINDS = {
    "group": lambda x: eddl.GroupNormalization(x, 3, epsilon=1e-3),
    "one group": lambda x: eddl.GroupNormalization(x, 1),
    "instance": eddl.InstanceNormalization,
    "layer": eddl.LayerNormalization,
    "rows": lambda x: eddl.LayerNormalization(x, 1, 1e-4),
    "planes": lambda x: eddl.LayerNormalization(x, 2),
}


def network(kind) -> eddl.Model:
    x = eddl.Input((2, 8, 6))
    # Right behind the input too, where nobody wants its gradient.
    y = eddl.Conv2D(eddl.InstanceNormalization(x), 6, 3, bias=False)
    y = eddl.ReLU(KINDS[kind](y))
    return eddl.Model([x], [eddl.Dense(eddl.Flatten(y), 3)])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_pytorch(kind):
    check(network(kind), ["mean_squared_error"], [images(3, 2, 8, 6)], [images(3, 3)], tolerance=1e-4)


def test_dense_features_are_normalised():
    x = eddl.Input((7,))
    y = eddl.GroupNormalization(eddl.LayerNormalization(eddl.Dense(x, 12)), 2)
    net = eddl.Model([x], [eddl.Dense(y, 2)])
    check(net, ["mean_squared_error"], [images(5, 7)], [images(5, 2)], tolerance=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_onnx(kind, tmp_path):
    net = network(kind)
    net.build(seed=4)
    net.parameter_vector += 0.1 * generator.normal(size=net.parameter_count).astype(np.float32)
    data = images(3, 2, 8, 6)
    expected = net.predict([data])[0]
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    assert np.abs(theirs - expected).max() < 1e-5
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert np.array_equal(again.predict([data])[0], expected)


def test_images_of_another_size():
    x = eddl.Input((4, 6, 6))
    y = eddl.InstanceNormalization(eddl.GroupNormalization(x, 2))
    net = eddl.Model([x], [y])
    net.build()
    assert net.predict([images(1, 4, 8, 5)])[0].shape == (1, 4, 8, 5)
    net = eddl.Model([x], [eddl.LayerNormalization(x)])
    net.build()
    with pytest.raises(DhhpcError, match=r"layernormalization_1: input of shape \(4, 8, 5\) .*\(4, 6, 6\)"):
        net.predict([images(1, 4, 8, 5)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: eddl.GroupNormalization(x, 4), "must divide 6 channels"),
        (lambda x: eddl.LayerNormalization(x, 4), "do not fit an input"),
        (lambda x: eddl.InstanceNormalization(eddl.Flatten(x)), "nothing to normalise by"),
        (lambda x: eddl.InstanceNormalization(x, epsilon=0), "must lie above 0"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build(eddl.Input((6, 5, 5)))
