"""Losses and their gradients against PyTorch in float64 and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

F = torch.nn.functional


def dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    p, t = (array.reshape(*array.shape[:2], -1) for array in (p, t))
    return 1 - ((2 * (p * t).sum(2) + 1) / (p.sum(2) + t.sum(2) + 1)).mean()


LOSSES = {
    "softmax_cross_entropy": F.cross_entropy,
    "cross_entropy": lambda p, t: -(t * p.log()).sum(1).mean(),
    "sigmoid_binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "binary_cross_entropy": F.binary_cross_entropy,
    "dice": dice,
    "mean_squared_error": F.mse_loss,
    "mean_absolute_error": F.l1_loss,
    "huber": F.huber_loss,
}
OF_PROBABILITIES = ("cross_entropy", "binary_cross_entropy", "dice")
SHAPES = st.sampled_from(
    [(1, 1), (4, 3), (2, 10), (3, 1500), (3, 2, 5, 7), (1, 1, 9, 9), (2, 4, 40, 33), (2, 3, 3, 4, 5)]
)


def prediction_and_targets(name: str, shape: tuple[int, ...], soft: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([len(name), *shape])
    logits = generator.standard_normal(shape) * 1.5
    if name == "cross_entropy":
        prediction = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    else:
        prediction = logits if name not in OF_PROBABILITIES else 1 / (1 + np.exp(-logits))
    targets = generator.random(shape)
    if not soft:
        targets = (targets == targets.max(axis=1, keepdims=True)) & (targets > 0.3)
    return prediction.astype(np.float32), targets.astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
@PROFILE
@given(shape=SHAPES, soft=st.booleans())
def test_loss_equals_pytorch(name, shape, soft, kernels, poisoned, assert_close):
    prediction, targets = prediction_and_targets(name, shape, soft)
    tensor = torch.tensor(prediction, dtype=torch.float64, requires_grad=True)
    expected = LOSSES[name](tensor, torch.tensor(targets, dtype=torch.float64))
    expected.backward()
    grad = poisoned(*shape)
    loss = getattr(kernels, name)(prediction, targets, grad)
    assert isinstance(loss, float)
    assert abs(loss - expected.item()) <= 1e-5 * max(abs(expected.item()), 1e-3)
    assert_close(grad, tensor.grad.numpy(), 2e-5)


@PROFILE
@given(shape=SHAPES)
def test_softmax_cross_entropy_of_classes_equals_that_of_one_hot(shape, kernels, draw, poisoned):
    logits = draw(1, *shape)
    classes = np.random.default_rng(2).integers(0, shape[1], (shape[0], *shape[2:]))
    one_hot = np.moveaxis(np.eye(shape[1], dtype=np.float32)[classes], -1, 1)
    grads = poisoned(*shape), poisoned(*shape)
    losses = [
        kernels.softmax_cross_entropy(logits, targets, grad)
        for targets, grad in zip((classes, np.ascontiguousarray(one_hot)), grads, strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-6, atol=1e-9)


def test_class_out_of_range_is_refused(kernels, poisoned):
    for classes in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="where there are 3"):
            kernels.softmax_cross_entropy(poisoned(2, 3), np.array(classes), poisoned(2, 3))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name, kernels, poisoned, assert_gradient):
    prediction, targets = prediction_and_targets(name, (2, 3, 4, 5), soft=True)
    reference = torch.tensor(targets, dtype=torch.float64)
    grad = poisoned(*prediction.shape)
    getattr(kernels, name)(prediction, targets, grad)
    assert_gradient(
        lambda p: LOSSES[name](torch.tensor(p), reference).item(), prediction, grad, tolerance=1e-3
    )


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_is_the_mean_of_its_parts(name, kernels, poisoned):
    """What makes the average of N ranks' gradients the gradient of the whole batch."""
    prediction, targets = prediction_and_targets(name, (4, 3, 6, 5), soft=False)
    loss = getattr(kernels, name)
    whole, first, second = poisoned(4, 3, 6, 5), poisoned(2, 3, 6, 5), poisoned(2, 3, 6, 5)
    total = loss(prediction, targets, whole)
    parts = loss(prediction[:2], targets[:2], first), loss(prediction[2:], targets[2:], second)
    assert abs(total - sum(parts) / 2) < 1e-6 * abs(total)
    np.testing.assert_allclose(whole, np.concatenate([first, second]) / 2, rtol=1e-5)


def test_dice_by_hand(kernels, poisoned):
    """One channel right (2 of 2 pixels), one empty and predicted empty: (1 - 5/5 + 1 - 1/1) / 2 = 0."""
    targets = np.zeros((1, 2, 2, 2), np.float32)
    targets[0, 0, 0] = 1
    grad = poisoned(1, 2, 2, 2)
    assert kernels.dice(targets, targets, grad) == 0.0
    # All wrong in channel 0: (2*0 + 1) / (2 + 2 + 1) = 0.2; half of 0.8 is left. With smooth 0 it is 0 / 4.
    wrong = targets[:, :, ::-1].copy()
    assert kernels.dice(wrong, targets, grad) == pytest.approx(0.4)
    assert kernels.dice(wrong[:, :1].copy(), targets[:, :1].copy(), grad[:, :1].copy(), 0.0) == 1.0


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_probabilities_of_zero_and_one_stay_finite(name, kernels, poisoned):
    prediction = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    targets = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    grad = poisoned(2, 2)
    assert getattr(kernels, name)(prediction, targets, grad) == pytest.approx(50.0)
    assert np.isfinite(grad).all()
    assert grad[0, 0] < 0


def test_large_logits_stay_finite(kernels, poisoned):
    logits = np.array([[1e4, -1e4]], np.float32)
    targets = np.array([[0.0, 1.0]], np.float32)
    grad = poisoned(1, 2)
    assert kernels.softmax_cross_entropy(logits, targets, grad) == pytest.approx(2e4)
    np.testing.assert_allclose(grad, [[1, -1]])
    assert kernels.sigmoid_binary_cross_entropy(logits, targets, grad) == pytest.approx(1e4)
    np.testing.assert_allclose(grad, [[0.5, -0.5]])


@pytest.mark.parametrize("name", LOSSES)
def test_nan_shows_in_the_loss(name, kernels, poisoned):
    prediction, targets = prediction_and_targets(name, (2, 3, 4, 5), soft=False)
    prediction[1, 2, 3, 4] = np.nan
    assert np.isnan(getattr(kernels, name)(prediction, targets, poisoned(2, 3, 4, 5)))
