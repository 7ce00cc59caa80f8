"""Batch normalization against PyTorch and finite differences."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

MOMENTUM, EPSILON = 0.1, 1e-5


def normalize(kernels, x, gamma, beta, running, out, poisoned):
    saved = poisoned(gamma.size), poisoned(gamma.size)
    kernels.batch_normalization_training(x, gamma, beta, *running, out, *saved, MOMENTUM, EPSILON)
    return saved


@PROFILE
@given(
    batch=st.integers(2, 5),
    channels=st.integers(1, 6),
    spatial=st.sampled_from([(), (1, 1), (3, 5), (8, 8), (33, 7)]),
    offset=st.sampled_from([0.0, 3.0, -50.0]),
)
@example(batch=4, channels=3, spatial=(128, 96), offset=3.0)
def test_batch_normalization_equals_pytorch(
    batch, channels, spatial, offset, kernels, draw, poisoned, assert_close
):
    x = draw(1, batch, channels, *spatial) + np.float32(offset)
    gamma, beta = draw(2, channels), draw(3, channels)
    running = [draw(4, channels), np.abs(draw(5, channels))]
    x64, gamma64, beta64, mean64, variance64 = (
        torch.tensor(array, dtype=torch.float64) for array in (x, gamma, beta, *running)
    )
    for tensor in (x64, gamma64, beta64):
        tensor.requires_grad_()
    out = poisoned(*x.shape)
    kernels.batch_normalization_inference(x, gamma, beta, *running, out, EPSILON)
    normal = torch.nn.functional.batch_norm
    expected = normal(x64, mean64, variance64, gamma64, beta64, False, MOMENTUM, EPSILON)
    assert_close(out, expected.detach().numpy())

    expected = normal(x64, mean64, variance64, gamma64, beta64, True, MOMENTUM, EPSILON)
    grad_out = draw(6, *x.shape)
    expected.backward(torch.tensor(grad_out))
    saved = normalize(kernels, x, gamma, beta, running, out, poisoned)
    assert_close(out, expected.detach().numpy(), 1e-4)
    assert_close(running[0], mean64.numpy())
    assert_close(running[1], variance64.numpy())

    grad_x, grad_gamma, grad_beta = grad_out.copy(), poisoned(channels), poisoned(channels)
    grads = grad_x, grad_gamma, grad_beta  # in place
    kernels.batch_normalization_backward(x, grad_x, gamma, beta, *saved, *grads)
    # With two samples a channel the gradient is a difference of nearly equal numbers.
    tolerance = 1e-4 if x.size // channels > 10 else 1e-2
    scale = float((gamma64.detach() * torch.tensor(saved[1])).abs().max()) * np.abs(grad_out).max()
    assert np.abs(grad_x - x64.grad.numpy()).max() <= tolerance * scale
    assert_close(grad_gamma, gamma64.grad.numpy(), tolerance)
    assert_close(grad_beta, beta64.grad.numpy(), 1e-4)


@PROFILE
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 5),
    spatial=st.sampled_from([(3, 5), (8, 8), (33, 7), (40, 41)]),
    slope=st.sampled_from([0.0, 0.2, 1.0]),
    skipped=st.booleans(),
    parts=st.booleans(),
    in_place=st.booleans(),
)
def test_sum_and_activation_in_one_pass(
    batch, channels, spatial, slope, skipped, parts, in_place, kernels, draw, poisoned, assert_close
):
    """Of a second input, and of a gradient that comes in two parts; results may lie over their sources."""
    x, gamma, beta = draw(1, batch, channels, *spatial), draw(2, channels), draw(3, channels)
    skip = draw(7, *x.shape) if skipped else None
    running = [draw(4, channels), np.abs(draw(5, channels))]
    gradients = [draw(8 + part, *x.shape) for part in range(1 + parts)]
    normal, leaky = torch.nn.functional.batch_norm, torch.nn.functional.leaky_relu
    wanted = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, gamma, beta)]
    skip64 = torch.tensor(skip if skipped else np.zeros_like(x), dtype=torch.float64, requires_grad=True)
    mean64, variance64 = (torch.tensor(array, dtype=torch.float64) for array in running)

    def expected(training):
        return leaky(
            normal(wanted[0], mean64, variance64, *wanted[1:], training, MOMENTUM, EPSILON) + skip64, slope
        )

    def place(source):
        return source.copy() if in_place and source is not None else poisoned(*x.shape)

    out = place(x)
    source = out if in_place else x
    kernels.batch_normalization_inference(source, gamma, beta, *running, out, EPSILON, skip, slope)
    assert_close(out, expected(False).detach().numpy(), 1e-4)
    out = place(skip)
    source = out if in_place and skipped else skip
    saved = poisoned(channels), poisoned(channels)
    rates = MOMENTUM, EPSILON
    kernels.batch_normalization_training(x, gamma, beta, *running, out, *saved, *rates, source, slope)
    result = expected(True)
    assert_close(out, result.detach().numpy(), 1e-4)

    result.backward(torch.tensor(sum(array.astype(np.float64) for array in gradients)))
    first, *second = gradients
    places = {"x": place(second[0] if parts else None), "skip": place(first)}
    if in_place:
        first = places["skip"]
        second = [places["x"]] if parts else []
        if not skipped and not parts:
            places["x"] = first
    grads = places["x"], poisoned(channels), poisoned(channels)
    kernels.batch_normalization_backward(
        x,
        first,
        gamma,
        beta,
        *saved,
        *grads,
        second[0] if parts else None,
        out if skipped else None,
        places["skip"] if skipped else None,
        slope,
    )
    for array, tensor in zip(grads, wanted, strict=True):
        scale = float((wanted[1].detach() * torch.tensor(saved[1])).abs().max()) if array is grads[0] else 1
        largest = max(float(tensor.grad.abs().max()), 4 * scale)
        assert np.abs(array - tensor.grad.numpy()).max() <= 1e-4 * largest
    if skipped:
        assert_close(places["skip"], skip64.grad.numpy())


def test_relu_of_infinity(kernels, poisoned):
    x = np.array([[-np.inf, 1, np.nan]], np.float32)
    ones, zeros, out = np.ones(3, np.float32), np.zeros(3, np.float32), poisoned(1, 3)
    kernels.batch_normalization_inference(x, ones, zeros, zeros, ones, out, EPSILON, None, 0.0)
    assert np.array_equal(out[0, [0, 2]], [0, np.nan], equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_element_a_channel(shape, kernels, draw, poisoned):
    """Out is beta, nothing flows back to x, and the running variance meets 0, not NaN."""
    x, gamma, beta = draw(1, *shape), draw(2, 3), draw(3, 3)
    running = [np.zeros(3, np.float32), np.ones(3, np.float32)]
    out = poisoned(*shape)
    saved = normalize(kernels, x, gamma, beta, running, out, poisoned)
    assert np.array_equal(out.ravel(), beta)
    assert np.allclose(running[0], MOMENTUM * x.ravel())
    assert np.allclose(running[1], 1 - MOMENTUM)
    grad_x, grad_gamma, grad_beta = grads = poisoned(*shape), poisoned(3), poisoned(3)
    kernels.batch_normalization_backward(x, draw(4, *shape), gamma, beta, *saved, *grads)
    assert not grad_x.any()
    assert not grad_gamma.any()
    assert np.array_equal(grad_beta, draw(4, *shape).ravel())


def test_gradients_by_finite_differences(kernels, draw, poisoned, assert_gradient):
    x, gamma, beta, grad_out = draw(1, 3, 2, 4, 5), draw(2, 2), draw(3, 2), draw(4, 3, 2, 4, 5)

    def loss(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> float:
        mean = x.mean(axis=(0, 2, 3), keepdims=True)
        variance = x.var(axis=(0, 2, 3), keepdims=True)
        normal = (x - mean) / np.sqrt(variance + EPSILON)
        return float(((normal * gamma[:, None, None] + beta[:, None, None]) * grad_out).sum())

    saved = normalize(kernels, x, gamma, beta, [poisoned(2), poisoned(2)], poisoned(*x.shape), poisoned)
    grad_x, grad_gamma, grad_beta = poisoned(*x.shape), poisoned(2), poisoned(2)
    kernels.batch_normalization_backward(x, grad_out, gamma, beta, *saved, grad_x, grad_gamma, grad_beta)
    assert_gradient(lambda p: loss(p, gamma, beta), x, grad_x)
    assert_gradient(lambda p: loss(x.astype(np.float64), p, beta), gamma, grad_gamma)
    assert_gradient(lambda p: loss(x.astype(np.float64), gamma, p), beta, grad_beta)


def test_statistics_of_many_values_far_from_zero(kernels, draw, poisoned):
    """A mean 1000 deviations from 0 over half a million values costs no digit of the statistics."""
    x = draw(1, 8, 1, 256, 256) + np.float32(1000)
    running = [np.zeros(1, np.float32), np.zeros(1, np.float32)]
    normalize(kernels, x, np.ones(1, "f"), np.zeros(1, "f"), running, poisoned(*x.shape), poisoned)
    assert abs(running[0][0] / MOMENTUM / x.mean(dtype=np.float64) - 1) < 1e-6
    assert abs(running[1][0] / MOMENTUM / x.var(dtype=np.float64, ddof=1) - 1) < 1e-5


class Ranks:
    """Sums over ranks that take turns: in the first round they are written down, in the second given."""

    def __init__(self, shares):
        self.shares, self.total, self.given = shares, 0, False
        self.share = 1.0

    def __call__(self, vector):
        if self.given:
            vector[:] = self.total
        else:
            self.total = self.total + vector

    def each(self, act):
        for second_round in (False, True):
            for rank, share in enumerate(self.shares):
                self.given, self.share = second_round, share
                act(rank)
        self.total = 0


@PROFILE
@given(
    batches=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    spatial=st.sampled_from([(), (3, 5), (33, 7)]),
    slope=st.sampled_from([0.0, 0.2, 1.0]),
    skipped=st.booleans(),
)
def test_statistics_over_ranks_equal_pytorch_on_the_whole_batch(
    batches, spatial, slope, skipped, kernels, draw, poisoned, assert_close
):
    """Each rank's gradients are those of its mean loss, to be weighed by its share of the samples."""
    samples, channels = sum(batches), 4
    x, skip, grad_out = (draw(seed, samples, channels, *spatial) for seed in (1, 2, 3))
    gamma, beta, running = draw(4, channels), draw(5, channels), [draw(6, channels), np.ones(channels, "f4")]
    arrays = (x, skip, gamma, beta, *running)
    x64, skip64, gamma64, beta64, mean64, variance64 = (torch.tensor(a, dtype=torch.float64) for a in arrays)
    for tensor in (x64, skip64, gamma64, beta64):
        tensor.requires_grad_()
    normal = torch.nn.functional.batch_norm(x64, mean64, variance64, gamma64, beta64, True, MOMENTUM, EPSILON)
    expected = torch.nn.functional.leaky_relu(normal + skip64 if skipped else normal, slope)
    expected.backward(torch.tensor(grad_out))

    edges = np.cumsum([0, *batches])
    parts = [slice(first, last) for first, last in itertools.pairwise(edges)]
    shares = [size / samples for size in batches]
    ranks, out, saved = Ranks(shares), poisoned(*x.shape), [poisoned(channels), poisoned(channels)]
    grad_x, grad_skip = poisoned(*x.shape), poisoned(*x.shape)
    grad_gamma, grad_beta = ([poisoned(channels) for _ in parts] for _ in range(2))

    def forward(rank):
        part, moved = parts[rank], [array.copy() for array in running]
        source = skip[part] if skipped else None
        arguments = (gamma, beta, *moved, out[part], *saved, MOMENTUM, EPSILON, source, slope, ranks)
        kernels.batch_normalization_training(x[part], *arguments)
        if ranks.given:
            assert_close(moved[0], mean64.numpy())
            assert_close(moved[1], variance64.numpy())

    def backward(rank):
        part = parts[rank]
        rest = (None, out[part], grad_skip[part]) if skipped else (None, None, None)
        kernels.batch_normalization_backward(
            x[part],
            grad_out[part] / np.float32(shares[rank]),
            gamma,
            beta,
            *saved,
            grad_x[part],
            grad_gamma[rank],
            grad_beta[rank],
            *rest,
            slope,
            ranks,
        )

    ranks.each(forward)
    assert_close(out, expected.detach().numpy(), 1e-4)
    ranks.each(backward)
    weights = np.repeat(np.float32(shares), batches).reshape(-1, *[1] * (x.ndim - 1))
    tolerance = 1e-4 if x.size // channels > 10 else 1e-2
    assert_close(grad_x * weights, x64.grad.numpy(), tolerance)
    if skipped:
        assert_close(grad_skip * weights, skip64.grad.numpy(), 1e-4)
    for found, wanted in ((grad_gamma, gamma64), (grad_beta, beta64)):
        assert_close(sum(s * g for s, g in zip(shares, found, strict=True)), wanted.grad.numpy(), tolerance)
