"""Kernels that run again without their layers compute what the layers would, bit for bit."""

import gc
import weakref

import dhhpc_kernels
import numpy as np
import pytest

from dhhpc import eddl
from dhhpc.eddl import passes
from dhhpc.eddl.warm_up import EXAMPLES, WORDS
from dhhpc.zoo import create

NETWORKS = {
    "unet": lambda: create("unet", (1, 32, 32), 1, channels=[4, 8, 8]),
    "unet-nearest": lambda: create("unet", (1, 16, 16), 1, channels=[4, 8], upsampling="nearest"),
    "resnet18": lambda: create("resnet18", (3, 64, 64), 4, width=32),
    "convnet": lambda: create("convnet", (1, 28, 28), 10, normalization=True),
}


@pytest.fixture
def threads(request):
    before = dhhpc_kernels.threads()
    dhhpc_kernels.set_threads(request.param)
    yield request.param
    dhhpc_kernels.set_threads(before)


@pytest.fixture
def layer_by_layer(monkeypatch):
    def run(code):
        with monkeypatch.context() as patched:
            patched.setattr(passes.Part, "run", passes.Part.run_steps)
            return code()

    return run


def replays(net):
    """How many parts of the model's passes can run again without their layers."""
    parts = [part for plan in net.plans.values() for found in plan.passes.made.values() for part in found]
    return sum(isinstance(part, passes.Part) and part.replay is not None for part in parts)


def drawn(draw, layer, count):
    """Numbers from 0 to 3, whole ones for an embedding."""
    numbers = draw.uniform(0, 3, (count, *layer.shape)).astype(np.float32)
    return np.floor(numbers) if layer.shape == WORDS else numbers


def train(create_network, steps=5, sizes=(4,), **options):
    """A trained network, its losses, and what it predicts on the way."""
    net = create_network()
    losses = ["mean_squared_error"] * len(net.outputs)
    net.build(eddl.SGD(0.01, momentum=0.9), losses, **options)
    draw = np.random.default_rng(3)
    found = []
    for step in range(steps):
        count = sizes[step % len(sizes)]
        inputs = [drawn(draw, layer, count) for layer in net.inputs]
        targets = [draw.random((count, *layer.shape), np.float32) for layer in net.outputs]
        found.append(net.train_batch(inputs, targets)["loss"])
        found += [float(np.sum(output, dtype=np.float64)) for output in net.predict(inputs)]
        net.compute_gradients(inputs, targets, completed=lambda start: None)
        found.append(net.gradient_vector.copy())
        net.apply_gradients()
    return net, found


def assert_same(one, other):
    (net, found), (expected, wanted) = one, other
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(net.parameter_vector, expected.parameter_vector, equal_nan=True)
    assert np.array_equal(net.statistics_vector, expected.statistics_vector, equal_nan=True)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_layer(number, layer_by_layer):
    shape, example = EXAMPLES[number]

    def network():
        x = eddl.Input(shape)
        return eddl.Model([x], [example(eddl.BatchNormalization(x))])

    assert_same(train(network), layer_by_layer(lambda: train(network)))


@pytest.mark.parametrize(("threads", "memory"), [(1, "full"), (3, "full"), (2, "low")], indirect=["threads"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_on_any_number_of_threads(name, memory, threads, layer_by_layer):
    sizes = (4, 3)  # plans of two sizes take turns in one arena
    found = train(NETWORKS[name], 6, sizes, memory=memory)
    assert replays(found[0]) > 6
    assert_same(found, layer_by_layer(lambda: train(NETWORKS[name], 6, sizes, memory=memory)))


def test_an_arena_that_grows_is_found(layer_by_layer):
    sizes = (2, 2, 2, 5, 2, 2, 5, 7, 2, 5)
    found = train(NETWORKS["unet"], len(sizes), sizes)
    assert_same(found, layer_by_layer(lambda: train(NETWORKS["unet"], len(sizes), sizes)))


def test_another_number_of_threads_is_noticed(layer_by_layer):
    before = dhhpc_kernels.threads()

    def run(net, count):
        dhhpc_kernels.set_threads(count)
        x = np.random.default_rng(count).random((3, 1, 28, 28), np.float32)
        return net.train_batch([x], [np.array([1, 2, 3])])["loss"]

    def results():
        net = NETWORKS["convnet"]()
        net.build(eddl.SGD(0.01), ["categorical_cross_entropy"])
        return [run(net, count) for count in (1, 1, 3, 3, 1, 1, 2, 2, 2)]

    try:
        assert results() == layer_by_layer(results)
    finally:
        dhhpc_kernels.set_threads(before)


def test_statistics_over_ranks_are_asked_for_every_time_and_only_then():
    net = NETWORKS["convnet"]()
    net.build(eddl.SGD(0.01), ["categorical_cross_entropy"])
    asked = []
    x, classes = np.ones((2, 1, 28, 28), np.float32), np.array([1, 2])
    for add in (None, asked.append, None, asked.append, asked.append, None):
        net.sum_over_ranks.add = add
        before = len(asked)
        for _ in range(3):
            net.train_batch([x], [classes])
        # Of four normalisations, forward and backward, and once the loss.
        assert len(asked) - before == (0 if add is None else 3 * (4 + 4 + 1))


def test_interrupts_come_through_between_parts():
    steps = [passes.Step(lambda: None, number != 50) for number in range(101)]
    parts = passes.parts(dhhpc_kernels.backend("cpu"), steps)
    sizes = [len(part.steps) if isinstance(part, passes.Part) else 1 for part in parts]
    assert sizes == [32, 18, 1, 32, 18]


def test_memory_is_free_once_a_model_is_gone():
    net, _ = train(NETWORKS["unet"], 3)
    plans = [weakref.ref(plan) for plan in net.plans.values()]
    gc.disable()
    try:
        del net, _
        assert [plan() for plan in plans] == [None] * len(plans)
    finally:
        gc.enable()
