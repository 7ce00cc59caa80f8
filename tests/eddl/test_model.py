"""The model's promises: memory, determinism, saving, optimizers, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dhhpc import eddl
from dhhpc.eddl.memory import Block, aligned, place
from dhhpc.errors import DhhpcError
from dhhpc.zoo import create


def segmentation(seed=0, count=6):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 1, 16, 16)).astype(np.float32)
    return x, (x > 0.5).astype(np.float32)


def small_unet(optimizer, seed=1):
    net = create("unet", (1, 16, 16), 1, channels=[4, 8])
    net.build(optimizer, ["binary_cross_entropy+dice"], ["dice", "accuracy"], seed=seed)
    return net


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 900), st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=40)
)
def test_blocks_that_live_together_never_overlap(specification):
    blocks = [Block(size, first, first + length) for size, first, length in specification]
    total = place(blocks)
    for number, block in enumerate(blocks):
        assert block.offset % 64 == 0
        assert block.offset + block.size <= total
        for other in blocks[:number]:
            together = block.first <= other.last and other.first <= block.last
            apart = block.offset + block.size <= other.offset or other.offset + other.size <= block.offset
            assert apart or not together
    assert total <= sum(aligned(block.size) for block in blocks)


def test_the_plan_takes_less_than_a_buffer_for_everything():
    net = create("unet", (1, 64, 64), 1, channels=[8, 16, 32])
    net.build(eddl.SGD(0.1), ["dice"])
    # Of a batch: the scratch of the convolutions, which does not grow with it, is no matter of the plan.
    batch = 8
    separate = batch * sum(2 * 4 * int(np.prod(layer.shape)) for layer in net.layers)
    assert net.make_plan(batch, [(1, 64, 64)], training=True).size < 0.6 * separate
    assert net.make_plan(batch, [(1, 64, 64)], training=False).size < 0.3 * separate


def test_a_step_allocates_nothing_of_size():
    import tracemalloc

    net = create("unet", (1, 64, 64), 1, channels=[8, 16])
    net.build(eddl.Adam(0.01), ["binary_cross_entropy+dice"])
    x = np.random.default_rng(0).normal(size=(8, 1, 64, 64)).astype(np.float32)
    y = (x > 0.5).astype(np.float32)
    net.train_batch([x], [y])
    tracemalloc.start()
    net.train_batch([x], [y])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes


def test_same_seed_same_bits_and_another_seed_other_ones():
    x, y = segmentation()
    vectors = []
    for seed in (1, 1, 2):
        net = small_unet(eddl.Adam(0.01), seed)
        for _ in range(5):
            net.train_batch([x], [y])
        vectors.append(net.parameter_vector.copy())
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


def test_plans_of_other_sizes_in_between_change_nothing():
    x, y = segmentation()
    plain, mixed = small_unet(eddl.SGD(0.1, momentum=0.9)), small_unet(eddl.SGD(0.1, momentum=0.9))
    for step in range(4):
        plain.train_batch([x], [y])
        mixed.train_batch([x], [y])
        mixed.predict([np.zeros((2, 1, 32 + 16 * step, 16), np.float32)])
    assert np.array_equal(plain.parameter_vector, mixed.parameter_vector)


@pytest.mark.parametrize("optimizer", [eddl.SGD, eddl.Adam, eddl.RMSProp, eddl.AdaDelta])
def test_saved_in_the_middle_goes_on_bit_for_bit(tmp_path, optimizer):
    options = {"momentum": 0.9} if optimizer is eddl.SGD else {}
    x, y = segmentation()
    whole = small_unet(optimizer(0.05, **options))
    for step in range(6):
        if step == 3:
            whole.save(tmp_path / "net.npz")
        whole.train_batch([x], [y])
    resumed = small_unet(optimizer(0.05, **options), seed=9)
    resumed.load(tmp_path / "net.npz")
    for _ in range(3):
        resumed.train_batch([x], [y])
    assert np.array_equal(whole.parameter_vector, resumed.parameter_vector)
    assert np.array_equal(whole.statistics_vector, resumed.statistics_vector)


def test_loading_a_damaged_or_foreign_file_changes_nothing(tmp_path):
    net = small_unet(eddl.SGD(0.1))
    net.save(tmp_path / "net.npz")
    before = net.parameter_vector.copy()
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes((tmp_path / "net.npz").read_bytes()[:-500])
    with pytest.raises(DhhpcError, match=r"damaged\.npz: damaged"):
        net.load(damaged)
    with pytest.raises(DhhpcError, match="no such file"):
        net.load(tmp_path / "missing.npz")
    other = create("unet", (1, 16, 16), 1, channels=[4, 6])
    other.build(eddl.SGD(0.1), ["dice"])
    with pytest.raises(DhhpcError, match="has shape"):
        other.load(tmp_path / "net.npz")
    third = create("convnet", (1, 16, 16), 1, channels=[4])
    third.build(eddl.SGD(0.1), ["binary_cross_entropy"])
    with pytest.raises(DhhpcError, match="on one side only"):
        third.load(tmp_path / "net.npz")
    assert np.array_equal(before, net.parameter_vector)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (eddl.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (eddl.SGD(0.1, 0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        (eddl.SGD(0.1, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True)),
        (eddl.Adam(0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (
            eddl.Adam(0.01, weight_decay=0.1, decoupled=True),
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        ),
        (eddl.RMSProp(0.01, weight_decay=0.1), lambda p: torch.optim.RMSprop(p, 0.01, weight_decay=0.1)),
        (eddl.RMSProp(0.01, momentum=0.8), lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.8)),
        (eddl.AdaGrad(0.05, weight_decay=0.1), lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.1)),
        (eddl.AdaDelta(weight_decay=0.1), lambda p: torch.optim.Adadelta(p, 1.0, weight_decay=0.1)),
        (eddl.AdaMax(weight_decay=0.1), lambda p: torch.optim.Adamax(p, 0.002, weight_decay=0.1)),
    ],
)
def test_ten_steps_of_each_optimizer_equal_pytorch(ours, theirs):
    generator = np.random.default_rng(4)
    x, y = (generator.normal(size=(16, n)).astype(np.float32) for n in (6, 3))
    layer = eddl.Input((6,))
    net = eddl.Model([layer], [eddl.Dense(layer, 3, name="dense")])
    net.build(ours, ["mean_squared_error"])
    reference = torch.nn.Linear(6, 3)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(net.parameters()["dense.weight"]))
        reference.bias.copy_(torch.tensor(net.parameters()["dense.bias"]))
    optimizer = theirs(reference.parameters())
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(reference(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
        net.train_batch([x], [y])
    assert np.allclose(net.parameters()["dense.weight"], reference.weight.detach(), rtol=1e-4, atol=1e-5)


def test_fit_learns_and_evaluate_agrees_with_predictions():
    x, y = segmentation(count=24)
    net = small_unet(eddl.Adam(0.02))
    history = net.fit([x], [y], batch_size=5, epochs=8)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    results = net.evaluate([x], [y], batch_size=7)
    prediction = net.predict([x])[0]
    assert results["accuracy"] == pytest.approx(np.mean((prediction > 0.5) == (y > 0.5)), abs=1e-6)
    both = ((prediction > 0.5) & (y > 0.5)).sum(axis=(1, 2, 3))
    sizes = (prediction > 0.5).sum(axis=(1, 2, 3)) + y.sum(axis=(1, 2, 3))
    assert results["dice"] == pytest.approx(np.mean(2 * both / sizes), abs=1e-6)


def test_class_indices_equal_one_hot_targets():
    generator = np.random.default_rng(2)
    x, indices = generator.normal(size=(5, 2, 8, 8)).astype(np.float32), np.array([0, 2, 1, 1, 0])
    losses = []
    for target in (indices, np.eye(3, dtype=np.float32)[indices]):
        net = create("convnet", (2, 8, 8), 3, channels=[4, 4])
        net.build(eddl.SGD(0.1), ["categorical_cross_entropy"], ["accuracy"])
        losses.append(net.train_batch([x], [target]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda net, x, y: net.train_batch([x, x], [y]), "2 input arrays for 1 inputs"),
        (lambda net, x, y: net.train_batch([x], [y, y]), "2 target arrays for 1 outputs"),
        (lambda net, x, y: net.train_batch([x[:0]], [y[:0]]), "at least 1"),
        (lambda net, x, y: net.train_batch([x], [y[:, :, :8]]), "do not fit predictions"),
        (lambda net, x, y: net.predict([np.zeros((1, 2, 16, 16))]), "takes samples of shape"),
        (lambda net, x, y: net.build(None, ["hubert"]), "loss 'hubert' is unknown"),
        (lambda net, x, y: net.build(None, ["dice", "dice"]), "2 losses for 1 outputs"),
        (lambda net, x, y: net.build(None, ["dice"], ["f3"]), "metric 'f3' is unknown"),
        (lambda net, x, y: net.build(None, ["dice"], device="gpu"), "device 'gpu'"),
        (lambda net, x, y: create("u-net", (1, 16, 16), 1), "did you mean unet"),
        (lambda net, x, y: create("unet", (1, 17, 16), 1, channels=[4, 8]), "multiples of 2"),
        (lambda net, x, y: create("unet", (1, 16, 16), 1, chanels=[4, 8]), "did you mean channels"),
        (lambda net, x, y: eddl.SGD(-1), "must be above 0"),
        (lambda net, x, y: eddl.RMSProp(decay=1), "decay 1 must lie in"),
        (lambda net, x, y: eddl.AdaMax(epsilon=0), "epsilon 0 must lie above 0"),
    ],
)
def test_wrong_use_is_refused_in_one_line(act, message):
    net, (x, y) = small_unet(eddl.SGD(0.1)), segmentation()
    with pytest.raises(DhhpcError, match=message) as caught:
        act(net, x, y)
    assert "\n" not in str(caught.value)


def test_an_output_that_needs_an_input_not_listed_is_refused():
    a, b = eddl.Input((1, 4, 4)), eddl.Input((1, 4, 4))
    with pytest.raises(DhhpcError, match="list it in the model's inputs"):
        eddl.Model([a], [eddl.Add([a, b])])


def test_resnet18_has_the_published_number_of_parameters():
    # He et al. 2016, as in torchvision: 11,689,512 with 1000 classes.
    assert create("resnet18", (3, 224, 224), 1000).parameter_count == 11_689_512


def test_summary_names_every_layer_and_counts():
    net = small_unet(eddl.SGD(0.1))
    text = net.summary(batch=2)
    assert all(layer.name in text for layer in net.layers)
    assert f"{net.parameter_count} parameters" in text
