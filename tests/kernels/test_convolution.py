"""Convolution and transposed convolution against PyTorch, and against loops with finite differences."""

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
TRANSPOSED = {
    1: torch.nn.functional.conv_transpose1d,
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}

Shape = tuple[int, ...]


class Case(NamedTuple):
    """A convolution's shape in 1 to 3 dimensions. `more` is the transposed one's output padding."""

    batch: int
    channels: int  # of a group
    kernels: int  # of a group
    groups: int
    size: Shape
    kernel: Shape
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)
    more: Shape = (0, 0)

    @property
    def options(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dimensions = draw(st.integers(1, 3))
    largest = 3 if dimensions == 3 else 5

    def numbers(least: int, most: int) -> Shape:
        return tuple(draw(st.integers(least, most)) for _ in range(dimensions))

    kernel, stride, dilation = numbers(1, largest), numbers(1, 3), numbers(1, 3)
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(draw(st.integers(0, e)) for e in extent)
    size = tuple(
        draw(st.integers(max(1, e - 2 * p), e + (5 if dimensions == 3 else 17)))
        for e, p in zip(extent, padding, strict=True)
    )
    more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    return Case(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 3)),
        size,
        kernel,
        stride,
        padding,
        dilation,
        more,
    )


@st.composite
def pointwise_cases(draw: st.DrawFn) -> Case:
    dimensions = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 30 if dimensions < 3 else 9)) for _ in range(dimensions))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dimensions))
    channels, kernels = draw(st.integers(1, 60)), draw(st.integers(1, 20))
    groups, ones, zeros = draw(st.integers(1, 2)), (1,) * dimensions, (0,) * dimensions
    return Case(draw(st.integers(1, 20)), channels, kernels, groups, size, ones, stride, zeros, ones)


def guarded_workspace(size: int) -> np.ndarray:
    """NaN, and behind the asked size a strip that no kernel may touch."""
    workspace = np.full(size + GUARD, np.nan, np.float32)
    workspace[size:] = 7
    return workspace


def convolve(case: Case, kernels, draw, poisoned) -> tuple[dict, dict]:
    """Our results and PyTorch's of forward and both gradients."""
    x = draw(1, case.batch, case.channels * case.groups, *case.size)
    weight = draw(2, case.kernels * case.groups, case.channels, *case.kernel)
    bias = draw(3, case.kernels * case.groups)
    tensors = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    expected = FORWARD[len(case.size)](*tensors, *case.options)
    grad_out = draw(4, *expected.shape)
    expected.backward(torch.tensor(grad_out))

    size = kernels.convolution_workspace(x.shape, weight.shape, *case.options)
    workspace = guarded_workspace(size)
    scratch = workspace[:size]
    out, grad_x = poisoned(*expected.shape), poisoned(*x.shape)
    grad_weight, grad_bias = poisoned(*weight.shape), poisoned(*bias.shape)
    kernels.convolution_forward(x, weight, bias, out, scratch, *case.options)
    kernels.convolution_backward_data(grad_out, weight, grad_x, scratch, *case.options)
    kernels.convolution_backward_weights(x, grad_out, grad_weight, grad_bias, scratch, *case.options)
    assert (workspace[size:] == 7).all()
    ours = {"out": out, "grad_x": grad_x, "grad_weight": grad_weight, "grad_bias": grad_bias}
    theirs = {"out": expected.detach().numpy()} | {
        name: tensor.grad.numpy()
        for name, tensor in zip(("grad_x", "grad_weight", "grad_bias"), tensors, strict=True)
    }
    return ours, theirs


ALGORITHMS = pytest.mark.parametrize("algorithm", ["auto", "direct", "product"])


@ALGORITHMS
@PROFILE
@given(case=cases())
@example(case=Case(8, 16, 16, 1, (128, 40), (3, 3), (1, 1), (1, 1)))  # several stripes
@example(case=Case(2, 130, 70, 1, (9, 9), (3, 3), (1, 1), (1, 1)))
@example(case=Case(1, 1, 1, 12, (13, 11), (3, 3), (1, 1), (1, 1)))  # depthwise
@example(case=Case(2, 3, 8, 1, (33, 31), (7, 7), (2, 2), (3, 3)))
@example(case=Case(2, 5, 6, 1, (8, 8), (1, 1), (2, 2)))  # pixels that no tap reaches
@example(case=Case(3, 8, 5, 2, (19, 27), (1, 1), (2, 2)))
@example(case=Case(2, 4, 6, 1, (3, 7, 18), (1, 1, 1), (1, 3, 2), (0, 0, 0), (1, 1, 1)))
@example(case=Case(1, 2, 2, 1, (1, 1), (3, 3), (1, 1), (1, 1)))
@example(case=Case(2, 12, 10, 1, (5, 13, 14), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)))
@example(case=Case(2, 3, 4, 2, (7, 6, 9), (3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 1)))
@example(case=Case(2, 5, 4, 1, (101,), (7,), (2,), (3,), (1,)))
@example(case=Case(2, 40, 9, 1, (6, 7), (3, 3), (1, 1), (1, 1)))  # windows over rows and images, two pieces
@example(case=Case(3, 70, 30, 1, (11, 23), (3, 3), (2, 2), (1, 1)))
@example(case=Case(1, 300, 50, 1, (5, 5), (1, 1)))
def test_convolution_equals_pytorch(algorithm, case, kernels, draw, poisoned, assert_close):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DHHPC_CONVOLUTION", algorithm)
        ours, theirs = convolve(case, kernels, draw, poisoned)
    for name in theirs:
        assert_close(ours[name], theirs[name])


@ALGORITHMS
@PROFILE
@given(case=pointwise_cases())
@example(case=Case(3, 110, 10, 1, (37, 41), (1, 1)))  # several pieces of the channels
@example(case=Case(3, 210, 10, 1, (57, 56), (1, 1), (2, 2)))  # several runs of pixels and bands of channels
@example(case=Case(60, 8, 9, 2, (3, 5), (1, 1)))  # runs of pixels over many images
@example(case=Case(50, 6, 7, 1, (5, 9), (1, 1), (2, 2)))
# Runs of whole vectors, which are read in place:
@example(case=Case(2, 70, 9, 1, (28, 56), (1, 1)))
@example(case=Case(3, 7, 6, 2, (31, 63), (1, 1), (2, 2)))
@example(case=Case(2, 5, 6, 2, (3, 16, 17), (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)))
@example(case=Case(2, 5, 6, 1, (5, 32, 32), (1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 1)))
@example(case=Case(3, 5, 6, 1, (800,), (1,), (1,), (0,), (1,)))
@example(case=Case(2, 33, 66, 2, (61, 67), (1, 1)))  # large planes that begin anywhere
@example(case=Case(7, 9, 25, 2, (2, 3), (1, 1)))  # windows of many images
@example(case=Case(2, 24, 20, 2, (49, 57), (1, 1), (2, 2)))  # a stride that leaves half squares
@example(case=Case(2, 12, 60, 1, (3, 64, 64), (1, 1, 1), (1, 2, 2), (0, 0, 0), (1, 1, 1)))
@example(case=Case(2, 70, 12, 1, (40, 41), (1, 1), (3, 3)))
@example(case=Case(1, 1300, 20, 1, (9, 11), (1, 1)))  # panels of many channels
def test_convolution_of_one_pixel_equals_pytorch(algorithm, case, kernels, draw, poisoned, assert_close):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DHHPC_CONVOLUTION", algorithm)
        ours, theirs = convolve(case, kernels, draw, poisoned)
    for name in theirs:
        assert_close(ours[name], theirs[name])


@PROFILE
@given(case=cases())
@example(case=Case(2, 16, 8, 1, (16, 16), (2, 2), (2, 2)))  # the U-Net's
@example(case=Case(1, 4, 3, 2, (5, 6), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)))
@example(case=Case(2, 4, 3, 1, (5, 6), (1, 1), (2, 3), (0, 0), (1, 1), (1, 2)))
@example(case=Case(2, 6, 3, 1, (3, 4, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0), (1, 1, 1), (1, 0, 1)))
@example(
    case=Case(2, 9, 8, 1, (5, 6), (1, 1), (1, 1), (0, 0), (2, 2), (1, 1))
)  # pixels that no other reaches
@example(case=Case(2, 9, 8, 1, (16, 32), (1, 1), (1, 1), (0, 0), (2, 2), (0, 1)))
@example(case=Case(2, 9, 8, 1, (5, 6), (1, 1), (2, 2), (0, 0), (4, 4), (3, 1)))
def test_transposed_convolution_equals_pytorch(case, kernels, draw, poisoned, assert_close):
    padding = tuple(
        min(pad, (spread * (taps - 1) + more) // 2)
        for pad, spread, taps, more in zip(case.padding, case.dilation, case.kernel, case.more, strict=True)
    )
    options = (case.stride, padding, case.dilation, case.groups)
    x = draw(1, case.batch, case.channels * case.groups, *case.size)
    weight = draw(2, case.channels * case.groups, case.kernels, *case.kernel)
    bias = draw(3, case.kernels * case.groups)
    tensors = [torch.tensor(array, requires_grad=True) for array in (x, weight, bias)]
    expected = TRANSPOSED[len(case.size)](
        *tensors, case.stride, padding, case.more, case.groups, case.dilation
    )
    grad_out = draw(4, *expected.shape)
    expected.backward(torch.tensor(grad_out))

    size = kernels.transposed_convolution_workspace(x.shape, weight.shape, *options)
    workspace = guarded_workspace(size)
    scratch = workspace[:size]
    out, grad_x = poisoned(*expected.shape), poisoned(*x.shape)
    grad_weight, grad_bias = poisoned(*weight.shape), poisoned(*bias.shape)
    kernels.transposed_convolution_forward(x, weight, bias, out, scratch, *options)
    kernels.transposed_convolution_backward_data(grad_out, weight, grad_x, scratch, *options)
    kernels.transposed_convolution_backward_weights(x, grad_out, grad_weight, grad_bias, scratch, *options)
    assert (workspace[size:] == 7).all()
    assert_close(out, expected.detach().numpy())
    for ours, tensor in zip((grad_x, grad_weight, grad_bias), tensors, strict=True):
        assert_close(ours, tensor.grad.numpy())


def convolution_by_loops(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, case: Case) -> np.ndarray:
    """The definition, in float64."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in case.padding)))
    extent = [case.dilation[i] * (case.kernel[i] - 1) + 1 for i in (0, 1)]
    size = [(padded.shape[2 + i] - extent[i]) // case.stride[i] + 1 for i in (0, 1)]
    out = np.zeros((x.shape[0], weight.shape[0], *size))
    for k in range(weight.shape[0]):
        first = k // case.kernels * case.channels
        for row in range(size[0]):
            for column in range(size[1]):
                top, left = row * case.stride[0], column * case.stride[1]
                window = padded[
                    :,
                    first : first + case.channels,
                    top : top + extent[0] : case.dilation[0],
                    left : left + extent[1] : case.dilation[1],
                ]
                out[:, k, row, column] = (window * weight[k]).sum(axis=(1, 2, 3)) + bias[k]
    return out


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 2, 3, 1, (7, 6), (3, 3), (1, 1), (1, 1)),
        Case(1, 2, 1, 3, (9, 8), (3, 2), (2, 3), (1, 2), (2, 1)),
        Case(1, 3, 4, 1, (5, 4), (1, 1)),
    ],
)
def test_convolution_gradients_by_finite_differences(case, kernels, draw, poisoned, assert_gradient):
    ours, _ = convolve(case, kernels, draw, poisoned)
    x = draw(1, case.batch, case.channels * case.groups, *case.size).astype(np.float64)
    weight = draw(2, case.kernels * case.groups, case.channels, *case.kernel).astype(np.float64)
    bias = draw(3, case.kernels * case.groups).astype(np.float64)
    grad_out = draw(4, *ours["out"].shape)
    assert np.abs(ours["out"] - convolution_by_loops(x, weight, bias, case)).max() < 1e-4
    assert_gradient(
        lambda p: (convolution_by_loops(p, weight, bias, case) * grad_out).sum(), x, ours["grad_x"]
    )
    assert_gradient(
        lambda p: (convolution_by_loops(x, p, bias, case) * grad_out).sum(), weight, ours["grad_weight"]
    )
    assert_gradient(
        lambda p: (convolution_by_loops(x, weight, p, case) * grad_out).sum(), bias, ours["grad_bias"]
    )


@pytest.mark.parametrize(
    "case",
    [
        Case(3, 12, 20, 1, (33, 35), (3, 3), (1, 1), (1, 1)),
        Case(2, 4, 6, 2, (21, 20), (3, 3), (2, 2), (1, 1)),
        Case(3, 20, 30, 1, (33, 35), (1, 1)),
        Case(3, 20, 30, 1, (33, 35), (1, 1), (2, 2)),
    ],
)
@ALGORITHMS
def test_results_do_not_depend_on_run_or_threads(algorithm, case, kernels, draw, poisoned, monkeypatch):
    monkeypatch.setenv("DHHPC_CONVOLUTION", algorithm)
    before = dhhpc_kernels.threads()
    try:
        results = []
        for threads in (1, 1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            results.append(convolve(case, kernels, draw, poisoned)[0])
    finally:
        dhhpc_kernels.set_threads(before)
    for other in results[1:]:
        for name, array in results[0].items():
            assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "backward_data"])
def test_pointwise_results_are_those_of_another_algorithm_bit_by_bit(
    shift, stride, direction, kernels, draw, monkeypatch
):
    """Whether the result is written past the caches, as whole lines are, or not."""
    case = Case(2, 130, 130, 1, (56, 56), (1, 1), (stride, stride))
    size = (2, 130, 56 // stride, 56 // stride)
    x, grad_out, weight = draw(1, 2, 130, 56, 56), draw(2, *size), draw(3, 130, 130, 1, 1)
    wanted = size if direction == "forward" else x.shape
    floats = int(np.prod(wanted))
    results = []
    for algorithm, expected in (("auto", "pointwise product"), ("product", "implicit product")):
        monkeypatch.setenv("DHHPC_CONVOLUTION", algorithm)
        names = kernels.explain_convolution(x.shape, weight.shape, *case.options)
        assert names[direction] == expected
        scratch = guarded_workspace(kernels.convolution_workspace(x.shape, weight.shape, *case.options))
        memory = np.full(floats + 32, np.nan, np.float32)
        first = -(memory.ctypes.data // 4) % 16 + shift
        result = memory[first : first + floats].reshape(wanted)
        if direction == "forward":
            kernels.convolution_forward(x, weight, draw(4, 130), result, scratch, *case.options)
        else:
            kernels.convolution_backward_data(grad_out, weight, result, scratch, *case.options)
        assert np.isnan(memory).sum() == 32
        results.append(result)
    assert results[0].tobytes() == results[1].tobytes()


def test_workspace_of_fewer_threads_suffices_for_more(kernels, draw, poisoned):
    case = Case(4, 8, 16, 1, (40, 40), (3, 3), (1, 1), (1, 1))
    x, weight = draw(1, 4, 8, 40, 40), draw(2, 16, 8, 3, 3)
    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(1)
        scratch = poisoned(kernels.convolution_workspace(x.shape, weight.shape, *case.options))
        single, several = poisoned(4, 16, 40, 40), poisoned(4, 16, 40, 40)
        kernels.convolution_forward(x, weight, None, single, scratch, *case.options)
        dhhpc_kernels.set_threads(3)
        kernels.convolution_forward(x, weight, None, several, scratch, *case.options)
    finally:
        dhhpc_kernels.set_threads(before)
    assert np.array_equal(single, several)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_workspace_of_more_threads_suffices_for_one(threads, kernels, draw, poisoned):
    """Rows of 10 pixels, by five windows of which the threads take them."""
    options = ((2, 2), (0, 0), (1, 1), 1)
    x, weight, out = draw(1, 2, 10, 20, 20), draw(2, 9, 10, 1, 1), poisoned(2, 9, 10, 10)
    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(threads)
        scratch = poisoned(kernels.convolution_workspace(x.shape, weight.shape, *options))
        for fewer in range(threads, 0, -1):
            dhhpc_kernels.set_threads(fewer)
            kernels.convolution_forward(x, weight, None, out, scratch, *options)
            kernels.convolution_backward_data(out, weight, x, scratch, *options)
    finally:
        dhhpc_kernels.set_threads(before)


def test_small_workspace_is_refused(kernels, draw, poisoned):
    options = ((1, 1), (1, 1), (1, 1), 1)
    x, weight, out = draw(1, 1, 2, 8, 8), draw(2, 3, 2, 3, 3), poisoned(1, 3, 8, 8)
    scratch = poisoned(kernels.convolution_workspace(x.shape, weight.shape, *options) // 16)
    with pytest.raises(ValueError, match="workspace lacks"):
        kernels.convolution_forward(x, weight, None, out, scratch, *options)
    with pytest.raises(ValueError, match="workspace lacks"):
        kernels.convolution_backward_weights(x, out, weight, None, scratch, *options)


def test_nan_and_infinity_get_through(kernels, draw, poisoned):
    options = ((1, 1), (1, 1), (1, 1), 1)
    x, weight = draw(1, 1, 2, 8, 8), draw(2, 3, 2, 3, 3)
    x[0, 1, 4, 4] = np.nan
    out = np.zeros((1, 3, 8, 8), np.float32)
    scratch = poisoned(kernels.convolution_workspace(x.shape, weight.shape, *options))
    kernels.convolution_forward(x, weight, None, out, scratch, *options)
    hit = np.zeros((8, 8), bool)
    hit[3:6, 3:6] = True
    assert np.array_equal(np.isnan(out[0]), np.broadcast_to(hit, (3, 8, 8)))
