"""Fused layers compute what their members do one by one, and are fused only where nobody notices."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dhhpc import eddl
from dhhpc.eddl import fusion, plan
from dhhpc.zoo import create

SHAPE = (3, 7, 5)


def not_fused(layers, outputs):
    return list(layers)


def kinds(net):
    """Of the steps of a plan, fused ones as their members joined by +."""
    return ["+".join(type(member).__name__ for member in layer.members) for layer in steps(net)]


def steps(net):
    return fusion.fuse(net.layers, net.outputs)


def drawn_network(draw):
    """Layers of one shape on each other in any way; most of those that nothing reads are outputs."""
    values = [eddl.Input(SHAPE)]
    for _ in range(draw(st.integers(2, 14))):
        source = values[-1] if draw(st.booleans()) else draw(st.sampled_from(values))
        other = draw(st.sampled_from(values))
        make = draw(
            st.sampled_from(
                [
                    lambda x, y: eddl.BatchNormalization(x),
                    lambda x, y: eddl.ReLU(x),
                    lambda x, y: eddl.ReLU(eddl.BatchNormalization(x)),
                    lambda x, y: eddl.LeakyReLU(eddl.BatchNormalization(eddl.Conv2D(x, 3, 1)), 0.2),
                    lambda x, y: eddl.ReLU(eddl.Add([x, y])),
                    lambda x, y: eddl.ReLU(eddl.Add([eddl.BatchNormalization(x), y])),
                    lambda x, y: eddl.LeakyReLU(eddl.Add([x, eddl.BatchNormalization(y)])),
                    lambda x, y: eddl.Add([x, y]),
                    lambda x, y: eddl.Add([x, y, x]),
                    lambda x, y: eddl.Add([x, x, y]),
                    lambda x, y: eddl.Multiply([x, eddl.Sigmoid(y)]),
                    lambda x, y: eddl.Conv2D(x, 3, 3),
                ]
            )
        )
        values.append(make(source, other))
    outputs = values[-1:] + draw(st.lists(st.sampled_from(values[1:-1]), max_size=2, unique_by=id))
    return eddl.Model(values[:1], list({id(layer): layer for layer in outputs}.values()))


def results(net, x, targets, memory="full"):
    """Loss, gradients and running statistics of a step, and what is predicted with these."""
    net.build(eddl.SGD(0.1), ["mean_squared_error"] * len(net.outputs), memory=memory)
    for name, array in net.parameters().items():  # none at its special starting value
        array += np.random.default_rng(len(name)).random(array.shape, np.float32) / 2
    gradients = net.gradients([x], targets)
    found = {"loss": np.array(net.train_batch([x], targets)["loss"]), **gradients}
    return found | {
        "statistics": net.statistics_vector.copy(),
        **{f"output {number}": array for number, array in enumerate(net.predict([x]))},
    }


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_fused_and_unfused_agree(data, monkeypatch):
    net = drawn_network(data.draw)
    generator = np.random.default_rng(4)
    x = generator.normal(size=(3, *SHAPE)).astype(np.float32)
    targets = [generator.normal(size=(3, *SHAPE)).astype(np.float32) for _ in net.outputs]
    fused = results(net, x, targets)
    low = results(net, x, targets, "low")
    with monkeypatch.context() as patch:  # without any gradient that lies in another's place, too
        patch.setattr(plan, "fuse", not_fused)
        patch.setattr(eddl.Add, "shares_gradient", False)
        for kind in (eddl.BatchNormalization, eddl.ReLU):
            patch.setattr(kind, "adds_gradients", False)
            patch.setattr(kind, "in_place", False)
        expected = results(net, x, targets)
    # Behind batch normalisation some gradients are differences of nearly equal numbers: all are held to the
    # largest.
    trained = [np.abs(expected[name]).max() for name in expected if "." in name]
    for name, array in expected.items():
        scale = max(trained) if "." in name else np.abs(array).max(initial=0)
        assert np.abs(fused[name] - array).max(initial=0) <= 1e-4 * max(scale, 1e-3), name
        assert fused[name].tobytes() == low[name].tobytes(), name


def residual():
    """A block of ResNet with a shortcut, and its names."""
    x = eddl.Input(SHAPE)
    y = eddl.ReLU(eddl.BatchNormalization(eddl.Conv2D(x, 3, 3), name="first"))
    z = eddl.BatchNormalization(eddl.Conv2D(y, 3, 3), name="second")
    return x, y, z


def test_the_patterns():
    x, y, z = residual()
    assert kinds(eddl.Model([x], [eddl.ReLU(eddl.Add([z, y]))])) == [
        "Input",
        "Conv2D",
        "BatchNormalization+ReLU",
        "Conv2D",
        "BatchNormalization+Add+ReLU",
    ]
    assert kinds(eddl.Model([x], [eddl.ReLU(eddl.Add([x, y]))]))[2:] == [
        "BatchNormalization+ReLU",
        "Add+ReLU",
    ]
    assert kinds(eddl.Model([x], [eddl.LeakyReLU(z)]))[-1] == "BatchNormalization+LeakyReLU"
    assert kinds(eddl.Model([x], [eddl.Sigmoid(z)]))[-2:] == ["BatchNormalization", "Sigmoid"]


def test_a_value_that_others_read_is_not_fused_away():
    x, y, z = residual()
    cut = eddl.ReLU(z)
    assert "BatchNormalization+ReLU" not in kinds(eddl.Model([x], [eddl.Multiply([cut, z])]))[3:]
    net = eddl.Model([x], [cut, z])
    assert kinds(net)[-2:] == ["BatchNormalization", "ReLU"]
    net.build()
    found = net.predict([np.random.default_rng(0).normal(size=(2, *SHAPE))])
    assert (found[1] < 0).any()
    assert np.array_equal(found[0], np.maximum(found[1], 0))
    total = eddl.Add([z, y])
    assert kinds(eddl.Model([x], [eddl.ReLU(total), total]))[-2:] == ["Add", "ReLU"]


def test_parameters_and_files_do_not_change(monkeypatch, tmp_path):
    """Their order and names, a saved state, and random numbers, which depend on a layer's position."""

    def trained(fuse):
        monkeypatch.setattr(plan, "fuse", fuse)
        x, y, z = residual()
        y = eddl.Dropout(eddl.ReLU(eddl.Add([z, y])), 0.5)
        net = eddl.Model([x], [eddl.Conv2D(y, 1, 1)])
        net.build(eddl.SGD(0.01), ["mean_squared_error"], seed=5)
        draw = np.random.default_rng(1).normal(size=(2, *SHAPE))
        net.train_batch([draw], [np.ones((2, 1, 7, 5))])
        return net

    fused, unfused = trained(fusion.fuse), trained(not_fused)
    assert list(fused.parameters()) == list(unfused.parameters())
    for name, array in unfused.parameters().items():
        assert np.allclose(fused.parameters()[name], array, rtol=1e-4, atol=1e-6), name
    unfused.save(tmp_path / "state.npz")
    fused.load(tmp_path / "state.npz")
    assert np.array_equal(fused.parameter_vector, unfused.parameter_vector)


def test_inference_takes_the_parameters_of_now():
    """Written, loaded or trained since the last prediction."""
    x, _, z = residual()
    net = eddl.Model([x], [eddl.ReLU(z)])
    net.build(eddl.SGD(0.1), ["mean_squared_error"])
    draw = np.random.default_rng(1).normal(size=(2, *SHAPE))
    before = net.predict([draw])[0]
    net.parameters()["second.beta"][...] = 100
    assert (net.predict([draw])[0] > before).all()
    net.train_batch([draw], [np.zeros((2, *SHAPE))])
    assert not np.array_equal(net.predict([draw])[0], before + 100)


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_fused_group_is_named_by_its_first_layer(name):
    x, y, z = residual()
    net = eddl.Model([x], [eddl.ReLU(eddl.Add([z, y]))])
    net.build(eddl.SGD(0.1), ["mean_squared_error"])
    net.parameters()[f"{name}.gamma"][...] = 3e38
    draw = np.random.default_rng(1).normal(size=(2, *SHAPE))
    with pytest.raises(eddl.NotFiniteError) as caught:
        net.train_batch([draw], [np.zeros((2, *SHAPE))])
    assert (caught.value.phase, caught.value.layer) == ("forward", name)
    assert f"layer {name} (BatchNormalization)" in str(caught.value)


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize(
    ("name", "shape", "batch"), [("resnet18", (3, 224, 224), 8), ("unet", (1, 256, 256), 2)]
)
def test_fusion_saves_memory(name, shape, batch, memory, monkeypatch):
    net = create(name, shape, 1)
    net.build(eddl.SGD(0.1), ["binary_cross_entropy"], memory=memory)
    sizes = []
    for fuse in (fusion.fuse, not_fused):
        monkeypatch.setattr(plan, "fuse", fuse)
        sizes.append([net.make_plan(batch, [shape], training=True).size])
    assert sizes[0] < sizes[1]
