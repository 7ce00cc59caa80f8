"""Dropout in a network: reproducible for any threads and ranks, resumed bit for bit, absent at inference."""

import dhhpc_kernels
import numpy as np
import onnxruntime
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from tests.eddl.test_gradients import check

generator = np.random.default_rng(3)
X = generator.normal(size=(6, 2, 8, 8)).astype(np.float32)
Y = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]


def network() -> eddl.Model:
    x = eddl.Input((2, 8, 8))
    y = eddl.Dropout(eddl.ReLU(eddl.Conv2D(x, 4, 3)), 0.25)
    y = eddl.Dropout(eddl.ReLU(eddl.Dense(eddl.Flatten(y), 16)), 0.5)
    return eddl.Model([x], [eddl.Softmax(eddl.Dense(y, 3))])


def built(seed: int = 1) -> eddl.Model:
    net = network()
    net.build(eddl.Adam(0.01), ["categorical_cross_entropy"], seed=seed)
    return net


def test_gradients_equal_pytorch():
    check(network(), ["categorical_cross_entropy"], [X], [Y])


def test_dropout_right_behind_the_input_and_read_twice():
    x = eddl.Input((5,))
    dropped = eddl.Dropout(eddl.Dense(eddl.Dropout(x, 0.2), 4))
    net = eddl.Model([x], [eddl.Add([dropped, eddl.Sigmoid(dropped)])])
    data = generator.normal(size=(7, 5)).astype(np.float32)
    check(net, ["mean_squared_error"], [data], [np.ones((7, 4), np.float32)])


def test_every_step_drops_others_and_the_same_step_the_same():
    net = built()
    first, again = net.gradients([X], [Y]), net.gradients([X], [Y])
    assert all(np.array_equal(first[name], again[name]) for name in first)
    net.optimizer.step_count += 1
    assert not np.array_equal(net.gradients([X], [Y])["dense_1.weight"], first["dense_1.weight"])


def test_saved_in_the_middle_goes_on_bit_for_bit(tmp_path):
    whole = built()
    for step in range(6):
        if step == 3:
            whole.save(tmp_path / "net.npz")
        whole.train_batch([X], [Y])
    resumed = built(seed=9)
    resumed.load(tmp_path / "net.npz")
    for _ in range(3):
        resumed.train_batch([X], [Y])
    assert np.array_equal(whole.parameter_vector, resumed.parameter_vector)


def test_same_bits_on_any_number_of_threads():
    vectors = []
    before = dhhpc_kernels.threads()
    try:
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            net = built()
            for _ in range(3):
                net.train_batch([X], [Y])
            vectors.append(net.parameter_vector.tobytes())
    finally:
        dhhpc_kernels.set_threads(before)
    assert vectors[0] == vectors[1] == vectors[2]


def test_values_computed_again_are_dropped_alike():
    """memory: low runs layers forward twice."""
    vectors = []
    for memory in ("full", "low"):
        x = eddl.Input((2, 8, 8))
        y = x
        for _ in range(5):
            y = eddl.Dropout(eddl.SiLU(eddl.LayerNormalization(eddl.Conv2D(y, 4, 3))), 0.25)
        net = eddl.Model([x], [eddl.Softmax(eddl.Dense(eddl.Flatten(y), 3))])
        net.build(eddl.Adam(0.01), ["categorical_cross_entropy"], memory=memory)
        for _ in range(3):
            net.train_batch([X], [Y])
        vectors.append(net.parameter_vector.tobytes())
    assert vectors[0] == vectors[1]


def test_two_ranks_drop_what_one_does():
    """The gradients of two halves average to the whole batch's only if their masks are its halves."""
    net = built()
    net.compute_gradients([X], [Y])
    whole = net.gradient_vector.copy()
    net.compute_gradients([X[:2]], [Y[:2]])
    first = net.gradient_vector.copy()
    net.compute_gradients([X[2:]], [Y[2:]], first_sample=2)
    np.testing.assert_allclose(whole, first / 3 + net.gradient_vector * 2 / 3, rtol=1e-3, atol=1e-6)


def test_inference_passes_everything_through_and_so_does_onnx(tmp_path):
    net = built()
    for rate in (0.25, 0.5):
        assert any(isinstance(layer, eddl.Dropout) and layer.rate == rate for layer in net.layers)
    expected = net.predict([X])[0]
    eddl.export_onnx(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: X})
    assert np.abs(theirs - expected).max() < 1e-5
    again = eddl.import_onnx(tmp_path / "net.onnx")
    again.build(seed=None)
    assert [layer.rate for layer in again.layers if isinstance(layer, eddl.Dropout)] == [0.25, 0.5]
    assert np.array_equal(again.predict([X])[0], expected)
    x = eddl.Input((4,))
    alone = eddl.Model([x], [eddl.Dropout(x, 0.9)])
    alone.build()
    data = generator.normal(size=(3, 4)).astype(np.float32)
    assert np.array_equal(alone.predict([data])[0], data)


@pytest.mark.parametrize("rate", [1.0, -0.5])
def test_rate_is_checked(rate):
    with pytest.raises(DhhpcError, match="must lie in"):
        eddl.Dropout(eddl.Input((3,)), rate)
