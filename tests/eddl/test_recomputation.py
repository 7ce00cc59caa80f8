"""`memory="low"` takes clearly less memory and changes no bit of what is computed."""

import numpy as np
import pytest

from dhhpc import eddl
from dhhpc.errors import DhhpcError
from dhhpc.zoo import create

generator = np.random.default_rng(13)


def branching():
    """Values read by several layers, two inputs, two outputs of which one feeds on, and views."""
    a, b = eddl.Input((2, 8, 8)), eddl.Input((3, 8, 8))
    y = eddl.BatchNormalization(eddl.Concat([eddl.Conv2D(a, 4, 3), b]))
    for _ in range(4):
        left = eddl.BatchNormalization(eddl.Conv2D(eddl.ReLU(y), 7, 3))
        y = eddl.ReLU(eddl.Add([left, eddl.Sigmoid(eddl.BatchNormalization(eddl.Conv2D(y, 7, 1))), y]))
    mask = eddl.Sigmoid(eddl.Conv2D(y, 1, 3))
    pooled = eddl.MaxPool2D(eddl.Concat([mask, y]), 3, 2, 1)
    y = eddl.Dense(eddl.ReLU(eddl.Dense(eddl.Flatten(pooled), 6)), 3)
    return eddl.Model([a, b], [mask, eddl.Softmax(y)])


CASES = {
    "unet": lambda: create("unet", (1, 32, 32), 1, channels=[4, 8, 8]),
    "unet-nearest": lambda: create("unet", (1, 16, 16), 1, channels=[4, 8], upsampling="nearest"),
    "resnet18": lambda: create("resnet18", (3, 32, 32), 4, width=4),
    "convnet": lambda: create("convnet", (1, 28, 28), 10, channels=[4, 8, 16], normalization=True),
    "branching": branching,
}


def trained(name, memory, steps=5):
    net = CASES[name]()
    losses = [
        "binary_cross_entropy" if out.shape[0] == 1 else "categorical_cross_entropy" for out in net.outputs
    ]
    net.build(eddl.Adam(0.01), losses, memory=memory)
    draw = np.random.default_rng(3)
    results = []
    for step in range(steps):
        count = 4 if step % 2 else 3  # plans of two sizes take turns in one arena
        inputs = [draw.normal(size=(count, *layer.shape)).astype(np.float32) for layer in net.inputs]
        targets = [
            (draw.random((count, *out.shape)) > 0.5).astype(np.float32)
            if out.shape[0] == 1
            else draw.integers(0, out.shape[0], count)
            for out in net.outputs
        ]
        results.append(net.train_batch(inputs, targets)["loss"])
    return net, results


@pytest.mark.parametrize("name", CASES)
def test_low_memory_changes_no_bit(name):
    full, low = trained(name, "full"), trained(name, "low")
    plan = next(plan for plan in low[0].plans.values() if plan.training)
    assert plan.recomputation.runs, "nothing runs again: the comparison would say nothing"
    assert full[1] == low[1]
    assert full[0].parameter_vector.tobytes() == low[0].parameter_vector.tobytes()
    assert full[0].statistics_vector.tobytes() == low[0].statistics_vector.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_every_way_to_cut_the_layers_changes_no_bit(name, monkeypatch):
    """Not only the cheapest one, which is all that the plan would take."""
    from dhhpc.eddl import recomputation

    expected, losses = trained(name, "full", steps=2)
    plan = next(plan for plan in expected.plans.values() if plan.training)
    everywhere = recomputation.possible_cuts(plan)
    for cuts in (everywhere, everywhere[::3], everywhere[len(everywhere) // 2 :][:1]):
        monkeypatch.setattr(recomputation, "choices", lambda plan, cuts=cuts: iter([cuts]))
        net, found = trained(name, "low", steps=2)
        assert found == losses
        assert net.parameter_vector.tobytes() == expected.parameter_vector.tobytes()


@pytest.mark.parametrize(
    ("name", "shape", "classes", "batch", "loss", "share"),
    [
        ("unet", (1, 256, 256), 1, 2, "binary_cross_entropy", 0.55),
        ("resnet18", (3, 224, 224), 1000, 8, "categorical_cross_entropy", 0.6),
    ],
)
def test_low_memory_is_clearly_smaller(name, shape, classes, batch, loss, share):
    sizes = []
    for memory in ("full", "low"):
        net = create(name, shape, classes)
        net.build(eddl.SGD(0.1), [loss], memory=memory)
        sizes.append(net.make_plan(batch, [shape], training=True).size)
    assert sizes[1] < share * sizes[0]


def test_an_unknown_memory_is_refused():
    net = CASES["unet"]()
    with pytest.raises(DhhpcError, match="memory 'tiny' is unknown; choose full or low"):
        net.build(memory="tiny")
