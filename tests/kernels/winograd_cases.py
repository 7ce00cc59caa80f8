"""Shapes, arrays and exact results for the tests of Winograd's algorithm."""

from typing import NamedTuple

import numpy as np
import torch
from dhhpc_kernels.cpu.convolutions.geometry import Geometry, geometry
from hypothesis import strategies as st

GUARD = 64


class Case(NamedTuple):
    batch: int
    channels: int
    kernels: int
    size: tuple[int, int]
    padding: tuple[int, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return Case(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
        tuple(draw(st.integers(max(1, 3 - 2 * pad), 40)) for pad in padding),
        padding,
    )


def guarded(size: int) -> np.ndarray:
    """NaN, and behind the asked size a strip that no kernel may touch."""
    workspace = np.full(size + GUARD, np.nan, np.float32)
    workspace[size:] = 7
    return workspace


def shape_of(case: Case, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> Geometry:
    return geometry(
        (case.batch, case.channels, *case.size),
        (case.kernels, case.channels // groups, kernel, kernel),
        None,
        (stride, stride),
        case.padding,
        (dilation, dilation),
        groups,
    )


def draw_arrays(
    case: Case, generator: np.random.Generator, scale: np.ndarray | None = None, stride: int = 1
) -> tuple[np.ndarray, ...]:
    """x, weight, bias and the gradient of the output; `scale` of each channel of x."""
    x = generator.standard_normal((case.batch, case.channels, *case.size), np.float32)
    if scale is not None:
        x *= scale[:, None, None].astype(np.float32)
    weight = generator.standard_normal((case.kernels, case.channels, 3, 3), np.float32)
    bias = generator.standard_normal(case.kernels, np.float32)
    out_size = [(case.size[i] + 2 * case.padding[i] - 3) // stride + 1 for i in (0, 1)]
    return x, weight, bias, generator.standard_normal((case.batch, case.kernels, *out_size), np.float32)


def exact(case: Case, x, weight, bias, grad_out, stride: int = 1) -> tuple[np.ndarray, ...]:
    """Output and gradients by x and weight, of PyTorch in float64."""
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (x, weight, bias)]
    out = torch.nn.functional.conv2d(*tensors, padding=case.padding, stride=stride)
    out.backward(torch.tensor(grad_out, dtype=torch.float64))
    return out.detach().numpy(), tensors[0].grad.numpy(), tensors[1].grad.numpy()


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest magnitude; infinite if a value is not a number."""
    assert np.isfinite(actual).all()
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
