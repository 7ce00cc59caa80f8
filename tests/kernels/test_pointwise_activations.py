"""Activations of one element each against PyTorch in float64; in place too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

F = torch.nn.functional
SELU = (1.6732632423543772, 1.0507009873554805)
FUNCTIONS = {
    ("leaky_relu", 0.1, 1.0): lambda x: F.leaky_relu(x, 0.1),
    ("elu", 0.7, 1.0): lambda x: F.elu(x, 0.7),
    ("elu", *SELU): F.selu,
    ("tanh", 1.0, 1.0): torch.tanh,
    ("softplus", 1.0, 1.0): F.softplus,
    ("softsign", 1.0, 1.0): F.softsign,
    ("hard_sigmoid", 1.0, 1.0): lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    ("exponential", 1.0, 1.0): torch.exp,
    ("silu", 1.0, 1.0): F.silu,
    ("gelu", 1.0, 1.0): F.gelu,
}


@pytest.mark.parametrize("case", FUNCTIONS, ids=lambda case: f"{case[0]}-{case[1]:.1f}")
@PROFILE
@given(
    shape=st.sampled_from([(1,), (3, 5), (2, 3, 5, 7), (1, 4, 40, 33)]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_activation_equals_pytorch(case, shape, size, kernels, draw, poisoned):
    function, alpha, scale = case
    x, grad_out = np.clip(draw(1, *shape) * np.float32(size), -80, 80), draw(2, *shape)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    expected = FUNCTIONS[case](tensor)
    expected.backward(torch.tensor(grad_out, dtype=torch.float64))
    out, grad_x = poisoned(*shape), poisoned(*shape)
    kernels.activation_forward(function, x, out, alpha, scale)
    # exp doubles the rounding of large x.
    tolerance = 1e-5 if function in ("exponential", "softplus") else 2e-6
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=tolerance, atol=5e-7)
    source = x if function in ("silu", "gelu") else out
    kernels.activation_backward(function, source, grad_out, grad_x, alpha, scale)
    np.testing.assert_allclose(grad_x, tensor.grad.numpy(), rtol=2e-5, atol=2e-6)
    again, grad_again = x.copy(), grad_out.copy()
    kernels.activation_forward(function, again, again, alpha, scale)
    assert np.array_equal(again, out)
    kernels.activation_backward(function, source, grad_again, grad_again, alpha, scale)
    assert np.array_equal(grad_again, grad_x)


@pytest.mark.parametrize("case", FUNCTIONS, ids=lambda case: f"{case[0]}-{case[1]:.1f}")
def test_ends_and_nan(case, kernels, poisoned):
    function, alpha, scale = case
    x = np.array([-np.inf, -100, 0, 100, np.inf, np.nan], np.float32)
    if function in ("softsign", "silu", "gelu"):  # inf / inf and 0 * inf are NaN, with PyTorch too in part
        x = x[1:-2]
    out = poisoned(*x.shape)
    kernels.activation_forward(function, x, out, alpha, scale)
    expected = FUNCTIONS[case](torch.tensor(x, dtype=torch.float64)).to(torch.float32).numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-37)
    assert np.isnan(out[-1]) or not np.isnan(x[-1])
