"""Depthwise convolution (one source channel a group) against PyTorch, and the edges of its tiles."""

import math
from typing import NamedTuple

import dhhpc_kernels
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

GUARD = 64
FORWARD = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
# What is drawn beyond the kernel's extent: from below a vector to several of them.
MOST_PIXELS = {1: 300, 2: 40, 3: 12}

Shape = tuple[int, ...]


class Case(NamedTuple):
    """A depthwise convolution in 1 to 3 dimensions."""

    batch: int
    channels: int
    multiplier: int  # kernels a channel
    size: Shape
    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape

    @property
    def options(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.channels

    @property
    def x_shape(self) -> Shape:
        return self.batch, self.channels, *self.size

    @property
    def weight_shape(self) -> Shape:
        return self.channels * self.multiplier, 1, *self.kernel

    @property
    def out_shape(self) -> Shape:
        sizes = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        out_size = ((size + 2 * pad - d * (taps - 1) - 1) // step + 1 for size, taps, step, pad, d in sizes)
        return self.batch, self.channels * self.multiplier, *out_size


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dimensions = draw(st.integers(1, 3))

    def numbers(least: int, most: int) -> Shape:
        return tuple(draw(st.integers(least, most)) for _ in range(dimensions))

    kernel, stride, dilation = numbers(1, 5), numbers(1, 3), numbers(1, 3)
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, e)) for e in extent)
    size = tuple(
        draw(st.integers(max(1, e - 2 * p), e + MOST_PIXELS[dimensions]))
        for e, p in zip(extent, padding, strict=True)
    )
    return Case(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 3)),
        size,
        kernel,
        stride,
        padding,
        dilation,
    )


def guarded(shape: Shape, fill: float = np.nan) -> tuple[np.ndarray, np.ndarray]:
    """An array, and around it a strip that no kernel may touch."""
    around = np.full(math.prod(shape) + 2 * GUARD, 7, np.float32)
    array = around[GUARD:-GUARD].reshape(shape)
    array[...] = fill
    return array, around


def convolve(case: Case, kernels, draw) -> dict[str, np.ndarray]:
    """Our output and gradients of numbers drawn."""
    x, weight, bias = draw(1, *case.x_shape), draw(2, *case.weight_shape), draw(3, case.weight_shape[0])
    return convolve_arrays(case, kernels, x, weight, bias, draw(4, *case.out_shape))


def convolve_arrays(
    case: Case, kernels, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, grad_out: np.ndarray
) -> dict[str, np.ndarray]:
    """Our output and gradients; the workspace is poisoned before each kernel."""
    workspace, *results = (
        guarded(shape)
        for shape in (
            (kernels.convolution_workspace(x.shape, weight.shape, *case.options),),
            case.out_shape,
            x.shape,
            weight.shape,
        )
    )
    (out, _), (grad_x, _), (grad_weight, _) = results
    scratch, _ = workspace
    kernels.convolution_forward(x, weight, bias, out, scratch, *case.options)
    scratch[:] = np.nan
    kernels.convolution_backward_data(grad_out, weight, grad_x, scratch, *case.options)
    scratch[:] = np.nan
    kernels.convolution_backward_weights(x, grad_out, grad_weight, None, scratch, *case.options)
    for _, around in (workspace, *results):
        assert (around[:GUARD] == 7).all()
        assert (around[-GUARD:] == 7).all()
    return {"out": out, "grad_x": grad_x, "grad_weight": grad_weight}


@settings(PROFILE, max_examples=60)
@given(case=cases())
@example(case=Case(2, 3, 1, (112, 112), (3, 3), (1, 1), (1, 1), (1, 1)))  # several tiles of rows
@example(case=Case(2, 3, 1, (57, 56), (3, 3), (2, 2), (1, 1), (1, 1)))
@example(case=Case(2, 9, 1, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)))  # rows shorter than a vector
@example(case=Case(2, 2, 2, (14, 14), (5, 5), (2, 2), (2, 2), (1, 1)))
@example(case=Case(1, 2, 1, (40, 40), (31, 31), (1, 1), (15, 15), (1, 1)))  # tiles that overlap by most
@example(case=Case(1, 2, 1, (2100,), (9,), (1,), (4,), (1,)))  # several tiles of columns
@example(case=Case(1, 2, 2, (4401,), (5,), (2,), (9,), (3,)))
@example(case=Case(2, 3, 1, (3, 2500), (3, 3), (1, 1), (1, 1), (1, 1)))
@example(case=Case(1, 3, 2, (9, 20, 21), (3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)))
@example(case=Case(1, 2, 1, (30, 31), (2, 2), (5, 4), (0, 0), (1, 1)))  # pixels that no tap reaches
@example(case=Case(2, 2, 8, (19, 18), (3, 3), (1, 1), (1, 1), (1, 1)))
@example(case=Case(2, 2, 2, (19, 34), (3, 3), (2, 2), (1, 1), (1, 1)))  # pairs of phases, and tall taps apart
@example(case=Case(1, 1, 1, (1, 1), (3, 3), (1, 1), (1, 1), (1, 1)))
def test_depthwise_convolution_equals_pytorch(case, kernels, draw, assert_close):
    chosen = kernels.explain_convolution(case.x_shape, case.weight_shape, *case.options)
    assert set(chosen.values()) == {"depthwise"}
    ours = convolve(case, kernels, draw)
    x, weight = (
        torch.tensor(draw(*shape), requires_grad=True)
        for shape in ((1, *case.x_shape), (2, *case.weight_shape))
    )
    bias = torch.tensor(draw(3, len(weight)))
    expected = FORWARD[len(case.size)](x, weight, bias, *case.options)
    expected.backward(torch.tensor(draw(4, *expected.shape)))
    assert_close(ours["out"], expected.detach().numpy())
    assert_close(ours["grad_x"], x.grad.numpy())
    assert_close(ours["grad_weight"], weight.grad.numpy())


@settings(PROFILE, max_examples=40)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    stride=st.integers(1, 2),
)
@example(batch=2, channels=3, size=(28, 28), stride=1)
@example(batch=2, channels=3, size=(56, 56), stride=2)
@example(batch=2, channels=3, size=(57, 33), stride=2)
@example(batch=2, channels=3, size=(9, 150), stride=1)  # rows of many vectors
@example(batch=2, channels=3, size=(150, 99), stride=1)  # more pixels than are summed at once
def test_3x3_taps_give_a_plane_the_same_bits_wherever_it_lies(
    batch, channels, size, stride, kernels, draw, assert_close
):
    """Planes between others are read where they are, the first and the last of an array from a copy."""
    case = Case(batch, channels, 1, size, (3, 3), (stride, stride), (1, 1), (1, 1))
    x, weight, bias, grad_out = (
        draw(seed, *shape)
        for seed, shape in enumerate((case.x_shape, case.weight_shape, (channels,), case.out_shape))
    )
    together = convolve_arrays(case, kernels, x, weight, bias, grad_out)
    alone = case._replace(batch=1, channels=1)
    for i in range(batch):
        for c in range(channels):
            plane, channel = np.s_[i : i + 1, c : c + 1], np.s_[c : c + 1]
            arrays = x[plane], weight[channel], bias[channel], grad_out[plane]
            single = convolve_arrays(alone, kernels, *map(np.ascontiguousarray, arrays))
            for name in ("out", "grad_x"):
                assert single[name].tobytes() == together[name][plane].tobytes(), (name, i, c)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = ((length - 1) * stride + 1 for length in case.out_shape[2:])
    expected = [
        [
            (padded[:, :, r : r + rows : stride, s : s + columns : stride] * grad_out).sum(axis=(0, 2, 3))
            for s in range(3)
        ]
        for r in range(3)
    ]
    assert_close(together["grad_weight"][:, 0], np.transpose(expected, (2, 0, 1)))


@pytest.mark.parametrize("size", [(45, 50), (7, 7)])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_on_any_number_of_threads(size, stride, kernels, draw):
    case = Case(3, 5, 1, size, (3, 3), (stride, stride), (1, 1), (1, 1))
    before = dhhpc_kernels.threads()
    try:
        results = []
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            results.append(convolve(case, kernels, draw))
    finally:
        dhhpc_kernels.set_threads(before)
    for other in results[1:]:
        for name, array in results[0].items():
            assert array.tobytes() == other[name].tobytes(), name


def test_a_workspace_of_fewer_threads_suffices_and_a_smaller_one_is_refused(kernels, draw, poisoned):
    case = Case(2, 6, 1, (20, 20), (3, 3), (1, 1), (1, 1), (1, 1))
    x, weight, gradient = draw(1, *case.x_shape), draw(2, *case.weight_shape), draw(3, *case.x_shape)
    out, grad_x, grad_weight = np.empty_like(x), np.empty_like(x), np.empty_like(weight)

    def run(scratch: np.ndarray) -> bytes:
        kernels.convolution_forward(x, weight, None, out, scratch, *case.options)
        kernels.convolution_backward_data(gradient, weight, grad_x, scratch, *case.options)
        kernels.convolution_backward_weights(x, gradient, grad_weight, None, scratch, *case.options)
        return out.tobytes() + grad_x.tobytes() + grad_weight.tobytes()

    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(1)
        scratch = poisoned(kernels.convolution_workspace(x.shape, weight.shape, *case.options))
        alone = run(scratch)
        dhhpc_kernels.set_threads(3)
        assert run(scratch) == alone
    finally:
        dhhpc_kernels.set_threads(before)
    small = scratch[: scratch.size // 4]
    with pytest.raises(ValueError, match="workspace lacks"):
        kernels.convolution_forward(x, weight, None, out, small, *case.options)
    with pytest.raises(ValueError, match="workspace lacks"):
        kernels.convolution_backward_data(gradient, weight, grad_x, small, *case.options)
    with pytest.raises(ValueError, match="workspace lacks"):
        kernels.convolution_backward_weights(x, gradient, grad_weight, None, small, *case.options)


def test_long_sums_keep_their_precision(kernels):
    """All of one sign: the error of a plain float32 sum grows with its length."""
    generator = np.random.default_rng(0)
    x, gradient = generator.random((2, 4, 3, 150, 150), np.float32)
    options = ((1, 1), (1, 1), (1, 1), 3)
    weight = np.empty((3, 1, 3, 3), np.float32)
    scratch = np.empty(kernels.convolution_workspace(x.shape, weight.shape, *options), np.float32)
    kernels.convolution_backward_weights(x, gradient, weight, None, scratch, *options)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for r in range(3):
        for s in range(3):
            expected = (padded[:, :, r : r + 150, s : s + 150] * gradient).sum(axis=(0, 2, 3))
            np.testing.assert_allclose(weight[:, 0, r, s], expected, rtol=1e-6)


def test_nan_gets_through(kernels, draw):
    options = ((1, 1), (1, 1), (1, 1), 3)
    x, weight = draw(1, 2, 3, 9, 10), draw(2, 3, 1, 3, 3)
    x[1, 2, 4, 4] = np.nan
    out = np.zeros_like(x)
    scratch = np.empty(kernels.convolution_workspace(x.shape, weight.shape, *options), np.float32)
    kernels.convolution_forward(x, weight, None, out, scratch, *options)
    hit = np.zeros(x.shape, bool)
    hit[1, 2, 3:6, 3:6] = True
    assert np.array_equal(np.isnan(out), hit)
