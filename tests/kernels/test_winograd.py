"""Winograd's algorithm against PyTorch in float64, for both sizes of tiles and every shape that it takes."""

import dhhpc_kernels
import numpy as np
import pytest
import torch
from dhhpc_kernels.cpu.convolutions import algorithms, winograd_convolution
from dhhpc_kernels.cpu.convolutions.geometry import geometry
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kernels.winograd_cases import Case, cases, draw_arrays, error, exact, guarded, shape_of

PROFILE = settings.get_profile("kernels")
# Of the largest magnitude of the exact result; the transforms of larger tiles lose more.
TOLERANCE = {2: 1e-5, 4: 5e-5}


def convolve(
    case: Case, tile: int, x, weight, bias, grad_out, streams: bool | None = None
) -> tuple[np.ndarray, ...]:
    """Output and gradients by x and weight. streams: whether weights pass by tiles, unless as chosen."""
    if streams is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(winograd_convolution, "_streams", lambda *_: streams)
            patch.setattr(winograd_convolution, "_streams_gradient", lambda *_: streams)
            return convolve(case, tile, x, weight, bias, grad_out)
    padding = (1,) * (x.ndim - 4) + case.padding
    shape = geometry(x.shape, weight.shape, None, (1,) * (x.ndim - 2), padding, (1,) * (x.ndim - 2), 1)
    out, grad_x, grad_weight = (np.full(a.shape, np.nan, np.float32) for a in (grad_out, x, weight))
    for name, arguments in (
        ("forward", (x, weight, bias, out)),
        ("backward_data", (grad_out, weight, np.empty(0, np.float32), grad_x)),
        ("backward_weights", (x, grad_out, grad_weight)),
    ):
        size = getattr(winograd_convolution, f"{name}_workspace")(tile, shape)
        workspace = guarded(size)
        getattr(winograd_convolution, name)(tile, shape, *arguments, workspace[:size])
        assert (workspace[size:] == 7).all()
    return out, grad_x, grad_weight


@PROFILE
@given(case=cases(), tile=st.sampled_from([2, 4]))
@example(case=Case(1, 1, 1, (1, 1), (1, 1)), tile=4)
@example(case=Case(3, 40, 30, (7, 7), (1, 1)), tile=4)  # blocks that span images
@example(case=Case(2, 17, 33, (64, 129), (1, 1)), tile=4)  # several blocks
@example(case=Case(2, 17, 33, (64, 129), (1, 1)), tile=2)
@example(case=Case(1, 5, 130, (9, 8), (0, 2)), tile=2)  # parts of the target channels
@example(case=Case(1, 131, 9, (5, 9), (1, 1)), tile=4)  # several pieces of the weights
@example(case=Case(2, 130, 70, (9, 9), (1, 1)), tile=4)  # several groups of sums
def test_winograd_equals_pytorch(case, tile):
    """In either order of the products, which give the same bits but for the sums over the tiles."""
    arrays = draw_arrays(case, np.random.default_rng(1))
    results = [convolve(case, tile, *arrays, streams=streams) for streams in (False, True)]
    for *actual, expected in zip(*results, exact(case, *arrays), strict=True):
        assert max(error(array, expected) for array in actual) <= TOLERANCE[tile]
    for resident, streamed in list(zip(*results, strict=True))[:2]:
        assert resident.tobytes() == streamed.tobytes()


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("streams", [False, True])
def test_depth_taps_of_volumes(tile, streams):
    case = Case(2, 5, 7, (9, 11), (1, 1))
    generator = np.random.default_rng(6)
    x, weight, bias, grad_out = (
        generator.standard_normal(shape, np.float32)
        for shape in ((2, 5, 4, 9, 11), (7, 5, 3, 3, 3), (7,), (2, 7, 4, 9, 11))
    )
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, weight, bias)]
    out = torch.nn.functional.conv3d(*tensors, padding=1)
    out.backward(torch.tensor(grad_out, dtype=torch.float64))
    expected = out.detach().numpy(), tensors[0].grad.numpy(), tensors[1].grad.numpy()
    results = convolve(case, tile, x, weight, bias, grad_out, streams=streams)
    for actual, exactly in zip(results, expected, strict=True):
        assert error(actual, exactly) <= TOLERANCE[tile]


@pytest.mark.parametrize(
    "case",
    [Case(2, 64, 64, (28, 28), (1, 1)), Case(1, 512, 40, (14, 14), (1, 1)), Case(8, 9, 512, (7, 7), (1, 1))],
)
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("spread", [3, 6])
def test_badly_scaled_channels(case, tile, spread):
    """Channels whose scales lie `spread` powers of ten apart, and images with a large mean."""
    arrays = draw_arrays(case, np.random.default_rng(2), np.logspace(-spread / 2, spread / 2, case.channels))
    for actual, expected in zip(convolve(case, tile, *arrays), exact(case, *arrays), strict=True):
        assert error(actual, expected) <= 5e-5
    arrays = draw_arrays(case, np.random.default_rng(3))
    arrays[0][:] += 100
    for actual, expected in zip(convolve(case, tile, *arrays), exact(case, *arrays), strict=True):
        assert error(actual, expected) <= 5e-5


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "case",
    [Case(3, 24, 40, (30, 29), (1, 1)), Case(2, 70, 90, (7, 7), (1, 1)), Case(1, 3, 5, (6, 6), (1, 1))],
)
def test_same_bits_on_any_number_of_threads(case, streams, tile):
    arrays = draw_arrays(case, np.random.default_rng(4))
    before = dhhpc_kernels.threads()
    try:
        results = []
        for threads in (1, 2, 3, 16):
            dhhpc_kernels.set_threads(threads)
            results.append([array.tobytes() for array in convolve(case, tile, *arrays, streams=streams)])
    finally:
        dhhpc_kernels.set_threads(before)
    assert all(result == results[0] for result in results)


def test_an_image_gives_the_same_bits_in_any_batch():
    case = Case(5, 24, 28, (18, 18), (1, 1))  # alone, it has few tiles for its channels
    x, weight, bias, grad_out = draw_arrays(case, np.random.default_rng(5))
    together = convolve(case, 4, x, weight, bias, grad_out)
    alone = convolve(case._replace(batch=1), 4, x[3:4], weight, bias, grad_out[3:4])
    assert together[0][3].tobytes() == alone[0][0].tobytes()
    assert together[1][3].tobytes() == alone[1][0].tobytes()


def test_choice_of_the_algorithm(monkeypatch):
    def chosen(channels: int, kernels: int, size: int, padding: int = 1, **options: int) -> int:
        case = Case(1, channels, kernels, (size, size), (padding, padding))
        return algorithms.choose_forward(shape_of(case, **options))

    monkeypatch.delenv("DHHPC_CONVOLUTION", raising=False)
    assert chosen(64, 64, 56) == 4
    assert chosen(1, 32, 256) == algorithms.DIRECT  # the transforms would cost more than they save
    assert chosen(512, 512, 7) == 4  # even where a quarter of the results are thrown away
    others = algorithms.DIRECT, algorithms.PRODUCT
    for options in ({"kernel": 5}, {"padding": 3}, {"dilation": 2}, {"groups": 2}):
        assert chosen(64, 64, 56, **options) in others
    assert chosen(8, 8, 28, kernel=5) == algorithms.DIRECT  # to gather would cost more than to multiply
    assert chosen(64, 64, 56, stride=2) == algorithms.STRIDED
    assert chosen(64, 64, 56, stride=3) == algorithms.PRODUCT
    monkeypatch.setenv("DHHPC_CONVOLUTION", "direct")
    assert chosen(64, 64, 56) == algorithms.DIRECT
    monkeypatch.setenv("DHHPC_CONVOLUTION", "winograd")
    assert chosen(1, 32, 256) in algorithms.TILES
    assert chosen(64, 64, 56, kernel=5) in others
    monkeypatch.setenv("DHHPC_CONVOLUTION", "fast")
    with pytest.raises(ValueError, match="DHHPC_CONVOLUTION is 'fast'"):
        chosen(64, 64, 56)


def test_explanation_names_the_algorithms(kernels):
    options = ((1, 1), (1, 1), (1, 1), 1)
    explained = kernels.explain_convolution((8, 64, 56, 56), (64, 64, 3, 3), *options)
    assert explained == dict.fromkeys(["forward", "backward_data", "backward_weights"], "winograd 4x4")
    assert set(kernels.explain_convolution((8, 3, 56, 56), (64, 3, 7, 7), *options).values()) == {"direct"}
