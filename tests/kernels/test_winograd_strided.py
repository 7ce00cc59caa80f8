"""Winograd's algorithm at stride 2 against PyTorch in float64."""

import dhhpc_kernels
import numpy as np
import pytest
from dhhpc_kernels.cpu.convolutions import algorithms, winograd_strided
from dhhpc_kernels.cpu.microkernel import LANES, ROWS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kernels.winograd_cases import GUARD, Case, draw_arrays, error, exact, guarded, shape_of

PROFILE = settings.get_profile("kernels")
TOLERANCE = 2e-5  # of the largest magnitude of the exact result
EVEN = LANES // ROWS  # of which the channels of x must be a multiple


@st.composite
def cases(draw: st.DrawFn) -> Case:
    return Case(
        draw(st.integers(1, 3)),
        EVEN * draw(st.integers(1, 20 // EVEN)),
        draw(st.integers(1, 20)),
        (draw(st.integers(1, 70)), draw(st.integers(1, 70))),
        (1, 1),
    )


def convolve(case: Case, x, weight, bias, grad_out, bias_of_x=None) -> tuple[np.ndarray, np.ndarray]:
    """Output and gradient by x."""
    shape = shape_of(case, stride=2)
    size = winograd_strided.workspace_size(shape)
    out, grad_x = (np.full(a.shape, np.nan, np.float32) for a in (grad_out, x))
    bias_of_x = np.empty(0, np.float32) if bias_of_x is None else bias_of_x
    for run, arguments in (
        (winograd_strided.forward, (x, weight, bias, out)),
        (winograd_strided.backward_data, (grad_out, weight, bias_of_x, grad_x)),
    ):
        workspace = guarded(size)
        run(shape, *arguments, workspace[:size])
        assert workspace[size:].tolist() == [7] * GUARD
    return out, grad_x


@PROFILE
@given(case=cases())
@example(case=Case(1, EVEN, 1, (1, 1), (1, 1)))
@example(case=Case(3, 40, 30, (7, 7), (1, 1)))  # blocks that span images
@example(case=Case(2, 18, 33, (128, 257), (1, 1)))  # several blocks
@example(case=Case(1, 6, 130, (17, 16), (1, 1)))  # parts of the target channels
@example(case=Case(1, 130, 5, (33, 32), (1, 1)))
@example(case=Case(1, 2, 3, (9, 118), (1, 1)))  # lines of tiles that just fill their vectors
def test_winograd_at_a_stride_equals_pytorch(case):
    arrays = draw_arrays(case, np.random.default_rng(1), stride=2)
    for actual, expected in zip(convolve(case, *arrays), exact(case, *arrays, stride=2), strict=False):
        assert error(actual, expected) <= TOLERANCE


def test_the_gradient_by_x_takes_a_bias_as_transposed_convolutions_do():
    case = Case(2, 10, 7, (23, 30), (1, 1))
    arrays = draw_arrays(case, np.random.default_rng(2), stride=2)
    bias = np.arange(10, dtype=np.float32)
    _, plain, _ = exact(case, *arrays, stride=2)
    _, grad_x = convolve(case, *arrays, bias_of_x=bias)
    assert error(grad_x, plain + bias[:, None, None]) <= TOLERANCE


@pytest.mark.parametrize("case", [Case(2, 64, 64, (56, 56), (1, 1)), Case(1, 128, 40, (29, 27), (1, 1))])
@pytest.mark.parametrize("spread", [3, 6])
def test_badly_scaled_channels(case, spread):
    """Channels whose scales lie `spread` powers of ten apart, and images with a large mean."""
    scale = np.logspace(-spread / 2, spread / 2, case.channels)
    arrays = draw_arrays(case, np.random.default_rng(2), scale, stride=2)
    shifted = draw_arrays(case, np.random.default_rng(3), stride=2)
    shifted[0][:] += 100
    for each in (arrays, shifted):
        for actual, expected in zip(convolve(case, *each), exact(case, *each, stride=2), strict=False):
            assert error(actual, expected) <= 5e-5


@pytest.mark.parametrize("case", [Case(3, 24, 40, (60, 57), (1, 1)), Case(2, 70, 90, (14, 14), (1, 1))])
def test_same_bits_on_any_number_of_threads_and_in_any_batch(case):
    arrays = draw_arrays(case, np.random.default_rng(4), stride=2)
    before = dhhpc_kernels.threads()
    try:
        results = []
        for threads in (1, 2, 3, 16):
            dhhpc_kernels.set_threads(threads)
            results.append([array.tobytes() for array in convolve(case, *arrays)])
    finally:
        dhhpc_kernels.set_threads(before)
    assert all(result == results[0] for result in results)
    x, weight, bias, grad_out = arrays
    together, alone = (
        convolve(case, *arrays),
        convolve(case._replace(batch=1), x[1:2], weight, bias, grad_out[1:2]),
    )
    assert [array[1].tobytes() for array in together] == [array[0].tobytes() for array in alone]


def test_choice_at_a_stride(monkeypatch):
    def chosen(channels: int, kernels: int, size: int, padding: int = 1, **options: int) -> list[int]:
        case = Case(1, channels, kernels, (size, size), (padding, padding))
        shape = shape_of(case, **{"stride": 2, **options})
        return [choose(shape) for choose in (algorithms.choose_forward, algorithms.choose_backward)]

    monkeypatch.delenv("DHHPC_CONVOLUTION", raising=False)
    assert chosen(64, 64, 56) == [algorithms.STRIDED] * 2
    assert chosen(64, 128, 56) == [algorithms.PRODUCT, algorithms.STRIDED]  # many transformed weights
    assert algorithms.STRIDED not in chosen(2, 2, 56)  # the transforms would cost more than they save
    for options in ({"padding": 0}, {"stride": 3}, {"dilation": 2}, {"groups": 2}, {"kernel": 5}):
        assert algorithms.STRIDED not in chosen(64, 64, 56, **options)
    if EVEN > 1:
        assert algorithms.STRIDED not in chosen(EVEN * 16 + 1, 64, 56)
    monkeypatch.setenv("DHHPC_CONVOLUTION", "direct")
    assert chosen(64, 128, 56) == [algorithms.DIRECT] * 2
    monkeypatch.setenv("DHHPC_CONVOLUTION", "winograd")
    assert chosen(2, 2, 8) == [algorithms.STRIDED] * 2
