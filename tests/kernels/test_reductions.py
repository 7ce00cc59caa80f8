"""Sums, means and maxima over axes against PyTorch."""

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")


@st.composite
def shapes_and_axes(draw: st.DrawFn) -> tuple:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    return tuple(shape), axis, draw(st.integers(1, len(shape) - axis))


@PROFILE
@given(case=shapes_and_axes(), mean=st.booleans())
@example(case=((3, 7, 1500), 1, 1), mean=True)
@example(case=((2, 3, 5000), 2, 1), mean=False)
def test_reductions_equal_pytorch(case, mean, kernels, draw, poisoned, assert_close):
    shape, axis, count = case
    axes = tuple(range(axis, axis + count))
    x = draw(1, *shape)
    kept = shape[:axis] + shape[axis + count :]
    grad_out = draw(2, *kept)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = tensor.mean(axes) if mean else tensor.sum(axes)
    expected.backward(torch.tensor(grad_out, dtype=torch.float64))
    out, grad_x = poisoned(*kept), poisoned(*shape)
    kernels.reduce_sum_forward(x, out, axis, count, mean)
    assert_close(out, expected.detach().numpy(), 1e-6)
    kernels.reduce_sum_backward(grad_out, grad_x, axis, count, mean)
    assert_close(grad_x, tensor.grad.numpy(), 1e-6)

    tensor = torch.tensor(x, requires_grad=True)
    expected = tensor.amax(axes)
    expected.backward(torch.tensor(grad_out))
    places = np.full(kept, -1, np.int32)
    kernels.reduce_max_forward(x, out, places, axis, count)
    assert np.array_equal(out, expected.detach().numpy())
    kernels.reduce_max_backward(grad_out, places, grad_x, axis, count)
    assert np.array_equal(grad_x, tensor.grad.numpy())


def test_nan_and_ties(kernels, poisoned):
    x = np.array([[1, 5, 5], [np.nan, 0, 2]], np.float32)
    out, places = poisoned(2), np.zeros(2, np.int32)
    kernels.reduce_max_forward(x, out, places, 1, 1)
    assert out[0] == 5
    assert np.isnan(out[1])
    assert places.tolist() == [1, 0]
