"""Group, layer and instance normalisation against PyTorch in float64 and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

F = torch.nn.functional


def run(kernels, poisoned, x, grad_out, gamma, beta, groups, epsilon=1e-5):
    out, grad_x = poisoned(*x.shape), poisoned(*x.shape)
    grad_gamma, grad_beta = poisoned(*gamma.shape), poisoned(*gamma.shape)
    saved = poisoned(x.shape[0] * groups), poisoned(x.shape[0] * groups)
    kernels.group_normalization_forward(x, gamma, beta, out, *saved, groups, epsilon)
    kernels.group_normalization_backward(x, grad_out, gamma, *saved, grad_x, grad_gamma, grad_beta, groups)
    again = grad_out.copy()
    kernels.group_normalization_backward(x, again, gamma, *saved, again, grad_gamma, grad_beta, groups)
    assert np.array_equal(again, grad_x)
    return out, grad_x, grad_gamma, grad_beta


def check(found, function, arrays, grad_out, assert_close):
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    expected = function(*tensors)
    expected.backward(torch.tensor(grad_out, dtype=torch.float64))
    for ours, theirs in zip(found, [expected.detach(), *(tensor.grad for tensor in tensors)], strict=True):
        assert_close(ours, theirs.numpy(), 5e-5)


@PROFILE
@given(
    batch=st.integers(1, 4),
    groups=st.integers(1, 3),
    width=st.integers(1, 4),
    spatial=st.sampled_from([(), (2,), (5, 7), (3, 4, 5), (40, 33)]),
    offset=st.sampled_from([0, 100]),
)
@example(batch=2, groups=2, width=150, spatial=(), offset=0)
@example(batch=200, groups=2, width=9, spatial=(), offset=0)
def test_group_normalization_equals_pytorch(
    batch, groups, width, spatial, offset, kernels, draw, poisoned, assert_close
):
    channels = groups * width
    if width * int(np.prod(spatial)) < 6:
        spatial = (7,)  # of few elements the terms of the gradient cancel to noise
    x, grad_out = draw(1, batch, channels, *spatial) + np.float32(offset), draw(2, batch, channels, *spatial)
    gamma, beta = draw(3, channels), draw(4, channels)
    found = run(kernels, poisoned, x, grad_out, gamma, beta, groups, epsilon=1e-3)
    check(
        found, lambda x, g, b: F.group_norm(x, groups, g, b, 1e-3), (x, gamma, beta), grad_out, assert_close
    )


@PROFILE
@given(batch=st.integers(1, 4), shape=st.sampled_from([(6,), (300,), (3, 5), (2, 9, 11)]))
@example(batch=150, shape=(600,))
def test_layer_normalization_equals_pytorch(batch, shape, kernels, draw, poisoned, assert_close):
    x, grad_out, gamma, beta = (
        draw(1, batch, *shape),
        draw(2, batch, *shape),
        draw(3, *shape),
        draw(4, *shape),
    )
    found = run(kernels, poisoned, x, grad_out, gamma, beta, 1, epsilon=1e-3)
    check(found, lambda x, g, b: F.layer_norm(x, shape, g, b, 1e-3), (x, gamma, beta), grad_out, assert_close)


def test_gradient_by_finite_differences(kernels, draw, poisoned, assert_gradient):
    x, grad_out, gamma, beta = draw(1, 2, 4, 3, 5), draw(2, 2, 4, 3, 5), draw(3, 4), draw(4, 4)
    _, grad_x, _, _ = run(kernels, poisoned, x, grad_out, gamma, beta, 2)

    def loss(x: np.ndarray) -> float:
        rows = x.reshape(2, 2, -1)
        rows = (rows - rows.mean(2, keepdims=True)) / np.sqrt(rows.var(2, keepdims=True) + 1e-5)
        return float((rows.reshape(x.shape) * gamma[:, None, None] * grad_out).sum())

    assert_gradient(loss, x, grad_x)


def test_constant_samples_give_beta_and_nan_stays_in_its_group(kernels, poisoned):
    x = np.full((2, 4, 6), 3.7, np.float32)
    x[1, 0, 0] = np.nan
    gamma, beta = np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    out, saved = poisoned(2, 4, 6), (poisoned(4), poisoned(4))
    kernels.group_normalization_forward(x, gamma, beta, out, *saved, 2, 1e-5)
    assert np.isnan(out[1, :2]).all()
    out[1, :2] = beta[:2, None]
    np.testing.assert_allclose(out, np.broadcast_to(beta[:, None], out.shape), atol=1e-4)


def test_weights_that_do_not_fit_are_refused(kernels, poisoned):
    x = poisoned(2, 6, 5)
    for count, groups in ((6, 4), (4, 2)):
        gamma, saved = poisoned(count), (poisoned(2 * groups), poisoned(2 * groups))
        with pytest.raises(ValueError, match="do not fit"):
            kernels.group_normalization_forward(x, gamma, gamma, x, *saved, groups, 1e-5)
