"""Dense layers, sums and concatenation against NumPy in float64."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

SIZES = st.integers(1, 40)


@PROFILE
@given(batch=SIZES, inputs=SIZES, outputs=SIZES)
def test_dense(batch, inputs, outputs, kernels, draw, poisoned, assert_close):
    x, weight, bias = draw(1, batch, inputs), draw(2, outputs, inputs), draw(3, outputs)
    grad_out = draw(4, batch, outputs)
    x64, weight64, grad64 = (array.astype(np.float64) for array in (x, weight, grad_out))
    out, grad_x = poisoned(batch, outputs), poisoned(batch, inputs)
    grad_weight, grad_bias = poisoned(outputs, inputs), poisoned(outputs)
    kernels.dense_forward(x, weight, bias, out)
    assert_close(out, x64 @ weight64.T + bias)
    kernels.dense_forward(x, weight, None, out)
    assert_close(out, x64 @ weight64.T)
    kernels.dense_backward_data(grad_out, weight, grad_x)
    assert_close(grad_x, grad64 @ weight64)
    kernels.dense_backward_weights(x, grad_out, grad_weight, grad_bias)
    assert_close(grad_weight, grad64.T @ x64)
    assert_close(grad_bias, grad64.sum(axis=0))


@PROFILE
@given(channels=st.lists(st.integers(1, 5), min_size=1, max_size=4), spatial=st.sampled_from([(), (3, 5)]))
def test_concatenate(channels, spatial, kernels, draw, poisoned):
    parts = [draw(i, 2, count, *spatial) for i, count in enumerate(channels)]
    out = poisoned(2, sum(channels), *spatial)
    kernels.concatenate_forward(parts, out)
    assert np.array_equal(out, np.concatenate(parts, axis=1))
    gradients = [poisoned(*part.shape) for part in parts]
    kernels.concatenate_backward(out, gradients)
    for gradient, part in zip(gradients, parts, strict=True):
        assert np.array_equal(gradient, part)


@PROFILE
@given(count=st.integers(1, 4))
def test_add_and_accumulate(count, kernels, draw, poisoned, assert_close):
    parts = [draw(i, 2, 3, 5, 4) for i in range(count)]
    expected = np.sum([part.astype(np.float64) for part in parts], axis=0)
    out = poisoned(2, 3, 5, 4)
    kernels.add_forward(parts, out)
    assert_close(out, expected)
    kernels.accumulate(parts[0], out)
    assert_close(out, expected + parts[0])
    kernels.add_forward(parts, parts[0])  # in place
    assert_close(parts[0], expected)
