"""Every layer and every way the plan shares memory, against PyTorch in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from dhhpc.zoo import create
from tests.eddl import torch_reference

generator = np.random.default_rng(7)


def images(*shape):
    return generator.normal(size=shape).astype(np.float32)


def close(ours, reference, tolerance=2e-5):
    reference = reference.detach().numpy()
    scale = np.abs(reference).max() + 1e-6
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() / scale < tolerance


def check(net, losses, inputs, targets, seed=3, tolerance=2e-5):
    """Outputs, loss and every gradient of one training step equal PyTorch's."""
    net.build(eddl.SGD(0.1), losses, seed=seed)
    # Away from the constants that biases and normalisations start with.
    net.parameter_vector += 0.1 * np.random.default_rng(seed).normal(size=net.parameter_count).astype(
        np.float32
    )
    outputs, leaves = torch_reference.run(net, inputs)
    expected = sum(
        torch_reference.loss(names, output, torch.tensor(np.asarray(target, np.float64)))
        for names, output, target in zip(losses, outputs, targets, strict=True)
    )
    expected.backward()
    results = net.compute_gradients(inputs, targets)
    assert results["loss"] == pytest.approx(expected.item(), rel=1e-4)
    gradients = net.gradients(inputs, targets)
    assert gradients
    for name, gradient in gradients.items():
        close(gradient, leaves[name].grad, tolerance)


def test_classifier():
    x = eddl.Input((3, 12, 10))
    y = eddl.MaxPool2D(eddl.ReLU(eddl.Conv2D(x, 8, 3)), 2)
    y = eddl.Softmax(eddl.Dense(eddl.Flatten(y), 5))
    target = np.eye(5, dtype=np.float32)[[0, 3, 4, 1]]
    check(eddl.Model([x], [y]), ["categorical_cross_entropy"], [images(4, 3, 12, 10)], [target])


@pytest.mark.parametrize("losses", ["binary_cross_entropy", "dice", "binary_cross_entropy+dice"])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
def test_unet(losses, upsampling):
    net = create("unet", (2, 16, 24), 1, channels=[4, 6, 8], upsampling=upsampling)
    target = (generator.random((3, 1, 16, 24)) > 0.6).astype(np.float32)
    check(net, [losses], [images(3, 2, 16, 24)], [target])


def test_unet_with_several_classes():
    net = create("unet", (1, 8, 8), 3, channels=[4, 6], normalization=False)
    target = np.moveaxis(np.eye(3, dtype=np.float32)[generator.integers(0, 3, (2, 8, 8))], -1, 1)
    check(net, ["softmax_cross_entropy+dice"], [images(2, 1, 8, 8)], [target])


def test_resnet():
    net = create("resnet18", (3, 32, 32), 4, width=4)
    target = np.eye(4, dtype=np.float32)[[0, 3]]
    # Two samples a batch normalisation at 1x1: variances near zero amplify rounding.
    check(net, ["categorical_cross_entropy"], [images(2, 3, 64, 64)], [target], tolerance=2e-3)


def test_values_read_by_many_layers_sum_their_gradients():
    x = eddl.Input((4, 9, 9))
    shared = eddl.ReLU(eddl.Conv2D(x, 4, 3))
    left = eddl.Sigmoid(eddl.Conv2D(shared, 4, 1))
    right = eddl.AveragePool2D(shared, 3, 1, 1)
    twice = eddl.Add([shared, shared, left])
    y = eddl.Concat([twice, eddl.ReLU(right), shared, x])
    net = eddl.Model([x], [eddl.Conv2D(y, 2, 3, stride=2)])
    check(net, ["mean_squared_error"], [images(2, 4, 9, 9)], [images(2, 2, 5, 5)])


def test_two_inputs_and_two_outputs_one_of_which_feeds_the_other():
    a, b = eddl.Input((2, 6, 6)), eddl.Input((3, 6, 6))
    joined = eddl.BatchNormalization(eddl.Concat([a, b]))
    first = eddl.Sigmoid(eddl.Conv2D(joined, 1, 3))
    second = eddl.Softmax(eddl.Dense(eddl.Flatten(eddl.Add([eddl.ReLU(first), first])), 3))
    net = eddl.Model([a, b], [first, second])
    targets = [
        (generator.random((4, 1, 6, 6)) > 0.5).astype(np.float32),
        np.eye(3, dtype=np.float32)[[0, 1, 2, 0]],
    ]
    check(
        net,
        ["binary_cross_entropy", "categorical_cross_entropy"],
        [images(4, 2, 6, 6), images(4, 3, 6, 6)],
        targets,
    )


def test_layers_behind_the_input_that_have_no_parameters():
    x = eddl.Input((2, 8, 8))
    y = eddl.BatchNormalization(eddl.ReLU(eddl.MaxPool2D(eddl.UpSampling2D(x, 2), 3, 2, 1)))
    net = eddl.Model([x], [eddl.GlobalAveragePool2D(eddl.Conv2D(y, 3, 3))])
    check(net, ["mean_squared_error"], [images(3, 2, 8, 8)], [images(3, 3, 1, 1)])


def test_regression():
    x = eddl.Input((5,))
    net = eddl.Model([x], [eddl.Dense(eddl.ReLU(eddl.Dense(x, 9)), 2)])
    check(net, ["mean_absolute_error+huber"], [images(6, 5)], [images(6, 2)])


def test_batch_normalisation_right_behind_the_input():
    x = eddl.Input((5,))
    net = eddl.Model([x], [eddl.Dense(eddl.BatchNormalization(x), 2)])
    check(net, ["mean_squared_error"], [images(6, 5)], [images(6, 2)])


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    return {
        "batch": draw(st.integers(1, 3)),
        "channels": groups * draw(st.integers(1, 3)),
        "size": (draw(st.integers(5, 11)), draw(st.integers(5, 11))),
        "options": {
            "filters": groups * draw(st.integers(1, 3)),
            "kernel": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
            "padding": (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
            "dilation": (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
            "groups": groups,
            "bias": draw(st.booleans()),
        },
    }


@pytest.mark.parametrize("kind", [eddl.Conv2D, eddl.ConvTranspose2D])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=convolutions())
def test_convolutions_of_any_shape(kind, case):
    channels, size = case["channels"], case["size"]
    x = eddl.Input((channels, *size))
    # A layer with parameters before it, so that the gradient with respect to its input is checked too.
    y = kind(eddl.Conv2D(x, channels, 1, groups=channels), **case["options"])
    net = eddl.Model([x], [y])
    data = images(case["batch"], channels, *size)
    check(net, ["mean_squared_error"], [data], [images(case["batch"], *y.shape)])


def test_predict_equals_pytorch_at_inference_and_takes_other_sizes():
    net = create("unet", (1, 16, 16), 1, channels=[4, 8])
    net.build(eddl.Adam(0.01), ["binary_cross_entropy"], seed=2)
    x, y = images(4, 1, 16, 16), (generator.random((4, 1, 16, 16)) > 0.5).astype(np.float32)
    for _ in range(3):
        net.train_batch([x], [y])
    for data in (x, images(2, 1, 24, 40)):
        (expected,), _ = torch_reference.run(net, [data], training=False)
        close(net.predict([data])[0], expected)
    assert np.array_equal(net.predict([x], batch_size=3)[0], net.predict([x])[0])


def test_running_statistics_follow_pytorch():
    x = eddl.Input((3, 4, 4))
    net = eddl.Model([x], [eddl.BatchNormalization(x, momentum=0.3, name="norm")])
    net.build(eddl.SGD(0.1), ["mean_squared_error"])
    reference = torch.nn.BatchNorm2d(3, momentum=0.3)
    for _ in range(3):
        data = images(5, 3, 4, 4)
        net.compute_gradients([data], [data])
        reference(torch.tensor(data))
    assert np.allclose(net.parameters()["norm.running_mean"], reference.running_mean, atol=1e-6)
    assert np.allclose(net.parameters()["norm.running_variance"], reference.running_var, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: eddl.Dense(x, 3), "put a Flatten before it"),
        (lambda x: eddl.Conv2D(x, 4, 2), "needs an odd kernel"),
        (lambda x: eddl.Conv2D(x, 4, 3, groups=2), "must divide 3 channels"),
        (lambda x: eddl.MaxPool2D(x, 32), "does not fit"),
        (lambda x: eddl.Concat([x, eddl.MaxPool2D(x, 2)]), "differ beyond their channels"),
        (lambda x: eddl.Add([x, eddl.MaxPool2D(x, 2)]), "cannot be added"),
        (lambda x: eddl.UpSampling2D(x, 2, "cubic"), "choose nearest or bilinear"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(build, message):
    with pytest.raises(DhhpcError, match=message):
        build(eddl.Input((3, 16, 16)))
