"""Shapes that do not fit are refused in one line that names both and the layer, at every way into a model."""

import re

import numpy as np
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from dhhpc.zoo import create


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.fixture(scope="module")
def nets():
    segmenting = create("unet", (1, 16, 16), 1, channels=[4, 8])
    classifying = create("convnet", (1, 16, 16), 3, channels=[4])
    a, b = eddl.Input((2, 8, 8), name="left"), eddl.Input((2, 8, 8), name="right")
    joined = eddl.Concat([eddl.Add([a, b], name="sum"), a], name="joined")
    merging = eddl.Model([a, b], [eddl.Conv2D(joined, 1, 3)], name="merging")
    for net, loss in (
        (segmenting, "dice"),
        (classifying, "categorical_cross_entropy"),
        (merging, "mean_squared_error"),
    ):
        net.build(eddl.SGD(0.1), [loss])
    return segmenting, classifying, merging


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ([zeros(2, 3, 16, 16)], "image: takes samples of shape (1, 16, 16), found (3, 16, 16)"),
        ([zeros(2, 1, 8, 16, 16)], "image: takes samples of shape (1, 16, 16), found (1, 8, 16, 16)"),
        (zeros(1, 1, 16, 16), "image: takes samples of shape (1, 16, 16), found (16, 16)"),
        ([zeros(2, 1, 17, 16)], "concat_1: inputs of 4x17x16, 4x16x16 differ beyond their channels"),
        ([zeros(2, 1, 0, 16)], "image: samples of shape (1, 0, 16) hold nothing"),
        ([zeros(0, 1, 16, 16)], "unet: inputs of shape (0, 1, 16, 16) hold [0] samples"),
        ([zeros(2, 1, 16, 16, dtype="U1")], "image: input of type <U1 and shape (2, 1, 16, 16)"),
        ([[[1.0], [1.0, 2.0]]], "image: input is no array: its rows have different lengths"),
        ([5.0], "image: input of type float64 and shape ()"),
        ([], "unet: 0 input arrays for 1 inputs"),
    ],
)
def test_inputs(nets, inputs, line):
    net, target = nets[0], zeros(2, 1, 16, 16)
    for act in (
        lambda: net.predict(inputs),
        lambda: net.train_batch(inputs, [target]),
        lambda: net.evaluate(inputs, [target]),
        lambda: net.fit(inputs, [target]),
    ):
        with pytest.raises(DhhpcError, match=re.escape(line)) as caught:
            act()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "line"),
    [
        ([zeros(4, 5)], "probabilities: targets of shape (4, 5) do not fit predictions of shape (4, 3)"),
        ([zeros(4)], "probabilities: targets of shape (4,) do not fit predictions of shape (4, 3)"),
        ([zeros(5, 3)], "probabilities: targets of shape (5, 3) do not fit inputs of shape (4, 1, 16, 16)"),
        ([zeros(3, 3)], "probabilities: targets of shape (3, 3) do not fit inputs of shape (4, 1, 16, 16)"),
        ([np.array([0, 1, 2, 3])], "probabilities: class index 3 is outside 0 to 2"),
        ([zeros(4, 3, dtype=complex)], "probabilities: target of type complex128 and shape (4, 3)"),
        ([], "convnet: 0 target arrays for 1 outputs"),
    ],
)
def test_targets(nets, targets, line):
    net, x = nets[1], zeros(4, 1, 16, 16)
    for act in (
        lambda: net.train_batch([x], targets),
        lambda: net.gradients([x], targets),
        lambda: net.evaluate([x], targets),
        lambda: net.fit([x], targets),
    ):
        with pytest.raises(DhhpcError, match=re.escape(line)) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_images_of_another_size_before_a_dense_layer(nets):
    line = "dense_1: input of shape (512,) where its weights take (256,)"
    with pytest.raises(DhhpcError, match=re.escape(line)):
        nets[1].predict([zeros(2, 1, 16, 32)])


@pytest.mark.parametrize(
    ("left", "right", "line"),
    [
        (
            (2, 2, 8, 8),
            (3, 2, 8, 8),
            "merging: inputs of shape (2, 2, 8, 8), (3, 2, 8, 8) hold [2, 3]",
        ),
        ((2, 2, 8, 8), (2, 2, 8, 9), "sum: inputs of 2x8x8, 2x8x9 cannot be added"),
        ((2, 2, 8, 8), (2, 1, 8, 8), "right: takes samples of shape (2, 8, 8), found (1, 8, 8)"),
    ],
)
def test_two_inputs(nets, left, right, line):
    with pytest.raises(DhhpcError, match=re.escape(line)):
        nets[2].predict([zeros(*left), zeros(*right)])


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda x: eddl.Dense(x, 3, name="top"), "top: input of shape (3, 16, 16) where (features,)"),
        (lambda x: eddl.Conv2D(eddl.Flatten(x), 4, 3, name="c"), "c: input of shape (768,) where (channels,"),
        (
            lambda x: eddl.Concat([eddl.Flatten(x), x], name="all"),
            "all: inputs of 768, 3x16x16 differ beyond their channels",
        ),
        (
            lambda x: eddl.Add([x, eddl.Conv2D(x, 4, 3)], name="sum"),
            "sum: inputs of 3x16x16, 4x16x16 cannot be added",
        ),
        (lambda x: eddl.Conv2D(x, 4, 3, groups=2, name="c"), "c: groups 2 must divide 3 channels"),
        (lambda x: eddl.Conv2D(x, 4, 19, padding=0, name="c"), "c: nothing is left of an input of 16x16"),
        (lambda x: eddl.MaxPool2D(x, 32, name="p"), "p: kernel (32, 32) does not fit in an input of 16x16"),
        (lambda x: eddl.UpSampling2D(eddl.Flatten(x), name="u"), "u: input of shape (768,) where (channels,"),
    ],
)
def test_layers(build, line):
    with pytest.raises(DhhpcError, match=re.escape(line)):
        build(eddl.Input((3, 16, 16)))
