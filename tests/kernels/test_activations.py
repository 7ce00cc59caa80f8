"""ReLU, sigmoid, softmax against PyTorch in float64 and finite differences; all in place too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

FUNCTIONS = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, dim=1),
}
SHAPES = st.sampled_from([(1, 1), (5, 3), (2, 10), (3, 1500), (2, 3, 5, 7), (1, 4, 40, 33), (3, 1, 2, 2)])


@pytest.mark.parametrize("name", FUNCTIONS)
@PROFILE
@given(shape=SHAPES, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_activation_equals_pytorch(name, shape, scale, kernels, draw, poisoned):
    x, grad_out = draw(1, *shape) * np.float32(scale), draw(2, *shape)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = FUNCTIONS[name](tensor)
    expected.backward(torch.tensor(grad_out, dtype=torch.float64))
    forward, backward = getattr(kernels, f"{name}_forward"), getattr(kernels, f"{name}_backward")
    out, grad_x = poisoned(*shape), poisoned(*shape)
    forward(x, out)
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=2e-5, atol=1e-7)
    backward(out, grad_out, grad_x)
    np.testing.assert_allclose(grad_x, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)
    again, grad_again = x.copy(), grad_out.copy()
    forward(again, again)
    backward(again, grad_again, grad_again)
    assert np.array_equal(again, out)
    assert np.array_equal(grad_again, grad_x)


@PROFILE
@given(shape=SHAPES)
def test_relu_of_a_sum(shape, kernels, draw, poisoned):
    """And its gradient that comes in two parts."""
    x, addend, grad, grad_addend = (draw(number, *shape) for number in range(4))
    out, grad_x = poisoned(*shape), poisoned(*shape)
    kernels.relu_forward(x, out, addend)
    assert np.array_equal(out, np.maximum(x + addend, 0))
    kernels.relu_backward(out, grad, grad_x, grad_addend)
    assert np.array_equal(grad_x, np.where(out > 0, grad + grad_addend, 0))
    kernels.relu_forward(x, addend, addend)
    assert np.array_equal(addend, out)
    kernels.relu_backward(out, grad, grad_addend, grad_addend)
    assert np.array_equal(grad_addend, grad_x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_by_finite_differences(name, kernels, draw, poisoned, assert_gradient):
    x, grad_out = draw(1, 2, 4, 3, 5), draw(2, 2, 4, 3, 5)

    def loss(x: np.ndarray) -> float:
        if name == "relu":
            return float((np.maximum(x, 0) * grad_out).sum())
        if name == "sigmoid":
            return float((grad_out / (1 + np.exp(-x))).sum())
        powers = np.exp(x)
        return float((powers / powers.sum(axis=1, keepdims=True) * grad_out).sum())

    out, grad_x = poisoned(*x.shape), poisoned(*x.shape)
    getattr(kernels, f"{name}_forward")(x, out)
    getattr(kernels, f"{name}_backward")(out, grad_out, grad_x)
    assert_gradient(loss, x, grad_x)


def test_softmax_of_large_logits(kernels, poisoned):
    x = np.array([[1e4, 1e4 - 1, -1e4], [3e38, -3e38, 0], [-1e4, -1e4, -1e4]], np.float32)
    out = poisoned(3, 3)
    kernels.softmax_forward(x, out)
    expected = np.exp([0, -1, -np.inf]) / np.exp([0, -1, -np.inf]).sum()
    np.testing.assert_allclose(out[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(out[1], [1, 0, 0])
    np.testing.assert_allclose(out[2], 1 / 3, rtol=1e-6)


def test_sigmoid_at_the_ends(kernels, poisoned):
    x = np.array([-np.inf, -200, -88, 88, 200, np.inf], np.float32)
    out = poisoned(6)
    kernels.sigmoid_forward(x, out)
    np.testing.assert_allclose(out, [0, 0, 0, 1, 1, 1], atol=1e-30)


def test_nan_gets_through(kernels, poisoned):
    x = np.zeros((1, 2, 1, 3), np.float32)
    x[0, 0, 0, 1] = np.nan
    for name in FUNCTIONS:
        out = poisoned(*x.shape)
        getattr(kernels, f"{name}_forward")(x, out)
        touched = np.isnan(out)
        assert touched[0, 0, 0, 1]
        assert touched.sum() == (2 if name == "softmax" else 1)


def test_array_that_is_not_contiguous_is_refused(kernels, draw):
    x = draw(1, 4, 6).T
    with pytest.raises(ValueError):  # noqa: PT011 - NumPy's own message
        kernels.sigmoid_forward(x, x)
