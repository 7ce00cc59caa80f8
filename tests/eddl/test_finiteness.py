"""A loss that is NaN or infinite names the layer, the pass or the sample where it began."""

import numpy as np
import pytest

from dhhpc import eddl
from dhhpc.zoo import create

generator = np.random.default_rng(5)


def chain(loss="mean_squared_error", learning_rate=0.1):
    """Two convolutions with names and a normalisation, whose running statistics must not be spoilt."""
    x = eddl.Input((2, 8, 8), name="scan")
    y = eddl.ReLU(eddl.BatchNormalization(eddl.Conv2D(x, 3, 3, name="first"), name="norm"), name="cut")
    net = eddl.Model([x], [eddl.Conv2D(y, 1, 3, name="second")])
    net.build(eddl.SGD(learning_rate), [loss])
    return net


def batch():
    return (
        generator.normal(size=(3, 2, 8, 8)).astype(np.float32),
        np.ones((3, 1, 8, 8), np.float32),
    )


def refused(net, x, y):
    before = [vector.copy() for vector in (net.parameter_vector, net.statistics_vector, net.gradient_vector)]
    with pytest.raises(eddl.NotFiniteError, match=r"the loss is (nan|inf)") as caught:
        net.train_batch([x], [y])
    assert "\n" not in str(caught.value)
    for vector, kept in zip(
        (net.parameter_vector, net.statistics_vector, net.gradient_vector), before, strict=True
    ):
        assert vector.tobytes() == kept.tobytes()
    return caught.value


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample(value):
    net, (x, y) = chain(), batch()
    net.train_batch([x], [y])
    x[1, 0, 3, 3] = value
    error = refused(net, x, y)
    assert (error.phase, error.layer, error.sample) == ("input", "scan", 1)
    assert "sample 2 of the batch holds NaN or infinity in input scan" in str(error)


def test_a_target():
    net, (x, y) = chain(), batch()
    y[2, 0, 0, 0] = np.nan
    error = refused(net, x, y)
    assert (error.phase, error.sample) == ("target", 2)
    assert "sample 3 of the batch holds NaN or infinity in the target of second" in str(error)


def test_a_layer_in_the_forward_pass():
    """Weights are finite, yet the second convolution's sums leave float32's range."""
    net, (x, y) = chain(), batch()
    net.parameters()["second.weight"][...] = 3e38
    error = refused(net, x, y)
    assert (error.phase, error.layer) == ("forward", "second")
    assert "layer second (Conv2D) in the forward pass" in str(error)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_layer_in_the_backward_pass():
    """The loss is finite while its gradient times the layer's input is not; seen one batch later."""
    x = eddl.Input((4,))
    net = eddl.Model([x], [eddl.Dense(eddl.Dense(x, 4, name="low"), 2, name="high")])
    net.build(eddl.SGD(1.0), ["mean_squared_error"])
    net.parameters()["low.weight"][...] = 1e25
    net.parameters()["high.weight"][...] = 1e-8
    inputs, targets = np.ones((3, 4), np.float32), np.zeros((3, 2), np.float32)
    assert np.isfinite(net.train_batch([inputs], [targets])["loss"])
    error = refused(net, inputs, targets)
    assert (error.phase, error.layer) == ("backward", "high")
    assert "layer high (Dense) in the last backward pass" in str(error)


def test_an_update():
    net, (x, y) = chain(learning_rate=1e38), batch()
    net.compute_gradients([x], [y])
    net.gradient_vector *= 1e6
    net.apply_gradients()
    error = refused(net, x, y)
    assert error.phase == "update"
    assert "the last update made first.weight NaN or infinite" in str(error)


def test_evaluation_looks_at_running_statistics():
    net, (x, y) = chain(), batch()
    net.parameters()["norm.running_mean"][0] = np.nan
    with pytest.raises(eddl.NotFiniteError, match=r"made norm\.running_mean NaN"):
        net.evaluate([x], [y])
    net = chain()
    x[2] = np.inf
    with pytest.raises(eddl.NotFiniteError, match="sample 3 of the batch"):
        net.evaluate([x], [y])


def test_the_first_of_many_layers_is_named():
    net = create("resnet18", (3, 32, 32), 4, width=4)
    net.build(eddl.SGD(0.1), ["categorical_cross_entropy"])
    layer = [layer for layer in net.layers if isinstance(layer, eddl.Add)][3]
    source = layer.parents[0].parents[0].describe()
    net.parameters()[f"{source}.weight"][...] = 3e38
    x = generator.normal(size=(2, 3, 32, 32)).astype(np.float32)
    error = refused(net, x, np.array([1, 3]))
    assert (error.phase, error.layer) == ("forward", source)
