"""Reductions in networks: gradients, ONNX, wrong use."""

import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

KINDS = [eddl.ReduceSum, eddl.ReduceMean, eddl.ReduceMax]


def images(*shape):
    return np.random.default_rng(10).normal(size=shape).astype(np.float32)


def network(kind) -> eddl.Model:
    x = eddl.Input((3, 4, 5))
    y = eddl.Conv2D(x, 3, 1)
    channels = eddl.Flatten(kind(y, 0))
    pixels = kind(y, (-1, 1), keep_dimensions=False)
    row = eddl.Flatten(kind(y, 2, keep_dimensions=False))
    return eddl.Model([x], [eddl.Dense(eddl.Concat([channels, pixels, row]), 2)])


@pytest.mark.parametrize("kind", KINDS)
def test_reduction(kind, tmp_path):
    data = images(4, 3, 4, 5)
    check(network(kind), ["mean_squared_error"], [data], [images(4, 2)])
    net = network(kind)
    net.build(seed=4)
    expected = net.predict([data])[0]
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: data})
    np.testing.assert_allclose(theirs, expected, rtol=1e-5, atol=1e-5)
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert np.array_equal(again.predict([data])[0], expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: eddl.ReduceSum(x, (0, 2)), r"axes \[0, 2\] are no neighbours"),
        (lambda x: eddl.ReduceMean(x, 3), r"axes \[3\] are no neighbours"),
        (lambda x: eddl.ReduceMax(x, (0, 1, 2), keep_dimensions=False), "keep the dimensions"),
        (lambda x: eddl.ReduceMax(x, ()), r"axes \[\] are no neighbours"),
    ],
)
def test_wrong_use_is_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build(eddl.Input((3, 4, 5)))
