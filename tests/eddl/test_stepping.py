"""Steps that begin during the backward pass against a whole backward pass and then a whole step."""

import dhhpc_kernels
import numpy as np
import pytest

from dhhpc import eddl
from dhhpc.eddl.layers import dense
from dhhpc.eddl.stepping import CompletedTail, EarlyStep

OPTIMIZERS = {
    "sgd": lambda: eddl.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "plain sgd": lambda: eddl.SGD(0.1),
    "adam": lambda: eddl.Adam(0.01, weight_decay=0.01),
    "rmsprop": lambda: eddl.RMSProp(0.01, momentum=0.5),
    "adagrad": lambda: eddl.AdaGrad(0.1),
    "adadelta": lambda: eddl.AdaDelta(),
    "adamax": lambda: eddl.AdaMax(),
}


def network(optimizer):
    x = eddl.Input((3, 5, 4))
    y = eddl.ReLU(eddl.Conv2D(x, 7, 3))
    y = eddl.ReLU(eddl.Dense(eddl.Flatten(y), 37))
    y = eddl.Dense(y, 11, bias=False)
    net = eddl.Model([x], [eddl.Softmax(eddl.Dense(y, 3))])
    net.build(optimizer, ["categorical_cross_entropy"], seed=5)
    return net


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_network_trains_as_with_whole_steps(name, monkeypatch):
    monkeypatch.setattr(dense, "PIECE", 400)  # the first two dense layers are then large
    early, whole = network(OPTIMIZERS[name]()), network(OPTIMIZERS[name]())
    generator = np.random.default_rng(3)
    for _ in range(4):
        x = generator.standard_normal((6, 3, 5, 4)).astype(np.float32)
        classes = generator.integers(0, 3, 6)
        assert early.train_batch([x], [classes]) == pytest.approx(whole.compute_gradients([x], [classes]))
        whole.apply_gradients()
    assert early.optimizer.step_count == whole.optimizer.step_count == 4
    assert np.allclose(early.parameter_vector, whole.parameter_vector, rtol=1e-5, atol=1e-6)
    assert np.allclose(early.optimizer.state_vector, whole.optimizer.state_vector, rtol=1e-4, atol=1e-6)
    kept = [views[0].any() for views in early.gradient_views if views]
    assert kept == [True, False, False, True]  # of the convolution and the last layer alone


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pieces_have_the_bits_of_a_whole_step(name):
    kernels = dhhpc_kernels.backend("cpu")
    generator = np.random.default_rng(4)
    whole, pieces = OPTIMIZERS[name](), OPTIMIZERS[name]()
    expected = generator.standard_normal(1000).astype(np.float32)
    parameters = expected.copy()
    for optimizer in (whole, pieces):
        optimizer.build(1000)
    for _ in range(3):
        gradients = generator.standard_normal(1000).astype(np.float32)
        whole.step(kernels, expected, gradients)
        step = EarlyStep(pieces, kernels, parameters, gradients)
        for start, stop in ((900, 1000), (37, 512)):
            step(parameters[start:stop], gradients[start:stop])
        step.finish()
    assert parameters.tobytes() == expected.tobytes()
    assert pieces.state_vector.tobytes() == whole.state_vector.tobytes()
    assert pieces.step_count == 3


def test_gradients_are_told_from_the_last_to_the_first_and_stay():
    """What is told of is complete: it does not change any more."""
    x = eddl.Input((3, 12, 12))
    y = eddl.ReLU(eddl.BatchNormalization(eddl.Conv2D(x, 8, 3)))
    y = eddl.ReLU(eddl.Add([y, eddl.BatchNormalization(eddl.Conv2D(y, 8, 3))]))
    net = eddl.Model([x], [eddl.Softmax(eddl.Dense(eddl.Flatten(eddl.MaxPool2D(y, 2)), 5))])
    net.build(eddl.SGD(0.1), ["categorical_cross_entropy"], seed=1)
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 3, 12, 12)).astype(np.float32)
    targets = np.eye(5, dtype=np.float32)[[0, 3, 1, 4]]
    told: list[tuple[int, np.ndarray]] = []
    net.compute_gradients(
        [images], [targets], completed=lambda start: told.append((start, net.gradient_vector[start:].copy()))
    )
    starts = [start for start, _ in told]
    assert starts == sorted(set(starts), reverse=True)
    assert starts[-1] == 0
    assert len(starts) >= 4
    for start, tail in told:
        assert tail.tobytes() == net.gradient_vector[start:].tobytes()


def test_pieces_that_come_out_of_order_are_told_once_the_gap_is_closed():
    vector = np.zeros(10, np.float32)
    told: list[int] = []
    tail = CompletedTail(vector, told.append)
    for pieces in ([vector[2:6]], [vector[8:], vector[6:8]], [], [vector[:2]]):
        tail(pieces)
    assert told == [2, 0]
