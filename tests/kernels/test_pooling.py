"""Pooling and upsampling against PyTorch and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

F = torch.nn.functional


MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@st.composite
def windows(draw: st.DrawFn) -> tuple:
    dimensions = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(dimensions))
    stride = tuple(draw(st.integers(1, 3)) for _ in kernel)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = tuple(draw(st.integers(k, k + (12 if dimensions < 3 else 5))) for k in kernel)
    return size, kernel, stride, padding


@PROFILE
@given(window=windows(), ceil=st.booleans(), rounded=st.booleans())
@example(window=((16, 18), (2, 2), (2, 2), (0, 0)), ceil=False, rounded=False)
@example(window=((15, 17), (3, 3), (2, 2), (1, 1)), ceil=True, rounded=True)
@example(window=((9, 7), (9, 7), (1, 1), (0, 0)), ceil=False, rounded=False)
@example(window=((41,), (3,), (5,), (1,)), ceil=True, rounded=False)
@example(window=((6, 7, 8), (2, 2, 2), (2, 2, 2), (0, 0, 0)), ceil=False, rounded=True)
@example(window=((5, 4, 9), (5, 4, 9), (1, 1, 1), (0, 0, 0)), ceil=False, rounded=False)
def test_pooling_equals_pytorch(window, ceil, rounded, kernels, draw, poisoned, assert_close):
    size, kernel, stride, padding = window
    x = draw(1, 2, 3, *size)
    if rounded:  # ties
        x = np.round(x)
    tensor = torch.tensor(x, requires_grad=True)
    expected, places = MAX[len(size)](tensor, kernel, stride, padding, ceil_mode=ceil, return_indices=True)
    grad_out = draw(2, *expected.shape)
    expected.backward(torch.tensor(grad_out))
    out, indices = poisoned(*expected.shape), np.full(expected.shape, -1, np.int32)
    kernels.max_pooling_forward(x, out, indices, kernel, stride, padding)
    assert np.array_equal(out, expected.detach().numpy())
    assert np.array_equal(indices, places.numpy())
    grad_x = poisoned(*x.shape)
    kernels.max_pooling_backward(grad_out, indices, grad_x)
    assert_close(grad_x, tensor.grad.numpy())

    tensor = torch.tensor(x, requires_grad=True)
    expected = AVERAGE[len(size)](tensor, kernel, stride, padding, ceil_mode=ceil, count_include_pad=False)
    expected.backward(torch.tensor(grad_out))
    kernels.average_pooling_forward(x, out, kernel, stride, padding)
    assert_close(out, expected.detach().numpy())
    grad_x = poisoned(*x.shape)
    kernels.average_pooling_backward(grad_out, grad_x, kernel, stride, padding)
    assert_close(grad_x, tensor.grad.numpy())


def test_max_pooling_keeps_nan_and_minus_infinity(kernels):
    x = np.full((1, 1, 4, 4), -np.inf, np.float32)
    x[0, 0, 0, 1] = np.nan
    out, indices = np.zeros((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), -1, np.int32)
    kernels.max_pooling_forward(x, out, indices, (2, 2), (2, 2), (0, 0))
    expected, places = F.max_pool2d(torch.tensor(x), 2, return_indices=True)
    assert np.array_equal(out, expected.numpy(), equal_nan=True)
    assert np.array_equal(indices, places.numpy())


def test_window_of_padding_only_is_refused(kernels, poisoned):
    x, out = poisoned(1, 1, 4, 4), poisoned(1, 1, 4, 4)
    with pytest.raises(ValueError, match="window without a pixel"):
        kernels.max_pooling_forward(x, out, np.zeros(out.shape, np.int32), (2, 2), (2, 2), (0, 0))
    with pytest.raises(ValueError, match="window without a pixel"):
        kernels.average_pooling_forward(x, out, (2, 2), (1, 1), (2, 2))


def test_pooling_gradients_by_finite_differences(kernels, draw, poisoned, assert_gradient):
    x, grad_out = draw(1, 2, 2, 6, 8), draw(2, 2, 2, 3, 4)

    def blocks(array: np.ndarray) -> np.ndarray:
        return array.reshape(2, 2, 3, 2, 4, 2)

    out, indices, grad_x = poisoned(2, 2, 3, 4), np.zeros((2, 2, 3, 4), np.int32), poisoned(*x.shape)
    options = ((2, 2), (2, 2), (0, 0))
    kernels.max_pooling_forward(x, out, indices, *options)
    kernels.max_pooling_backward(grad_out, indices, grad_x)
    assert_gradient(lambda p: (blocks(p).max(axis=(3, 5)) * grad_out).sum(), x, grad_x)
    kernels.average_pooling_backward(grad_out, grad_x, *options)
    assert_gradient(lambda p: (blocks(p).mean(axis=(3, 5)) * grad_out).sum(), x, grad_x)


@pytest.mark.parametrize("linear", [False, True])
@PROFILE
@given(
    axes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3),
)
@example(axes=[(3, 2), (4, 3), (5, 2)])
def test_upsampling_equals_pytorch(linear, axes, kernels, draw, poisoned, assert_close):
    size, factor = zip(*axes, strict=True)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(axes)] if linear else "nearest"
    x = draw(1, 2, 3, *size)
    tensor = torch.tensor(x, requires_grad=True)
    expected = F.interpolate(tensor, scale_factor=factor, mode=mode)
    grad_out = draw(2, *expected.shape)
    expected.backward(torch.tensor(grad_out))
    out, grad_x = poisoned(*expected.shape), poisoned(*x.shape)
    kernels.upsample_forward(x, out, mode)
    assert_close(out, expected.detach().numpy())
    kernels.upsample_backward(grad_out, grad_x, mode)
    assert_close(grad_x, tensor.grad.numpy())


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_gradient_is_the_adjoint(mode, kernels, draw, poisoned):
    """A linear map A and its gradient: <A x, g> = <x, A' g>, whatever x and g."""
    x, grad_out = draw(1, 1, 2, 5, 7), draw(2, 1, 2, 15, 14)
    out, grad_x = poisoned(*grad_out.shape), poisoned(*x.shape)
    kernels.upsample_forward(x, out, mode)
    kernels.upsample_backward(grad_out, grad_x, mode)
    left = (out.astype(np.float64) * grad_out).sum()
    assert abs(left - (x.astype(np.float64) * grad_x).sum()) < 1e-5 * np.abs(out * grad_out).sum()


def test_upsampling_mode_is_checked(kernels, poisoned):
    with pytest.raises(ValueError, match="nearest"):
        kernels.upsample_forward(poisoned(1, 1, 2, 2), poisoned(1, 1, 4, 4), "cubic")
