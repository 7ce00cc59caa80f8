"""The gradients of convolutions of one pixel at a stride, from the pixels that they meet, copied together.

So the products read and write pixels that follow each other, and the gradient by x is written whole rows at a
time. (Forward the product gathers these pixels as fast.)
"""

from collections.abc import Callable

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions import implicit_convolution
from dhhpc_kernels.cpu.convolutions.geometry import Geometry
from dhhpc_kernels.cpu.microkernel import LANES
from dhhpc_kernels.cpu.vector_moves import copy_second
from dhhpc_kernels.cpu.workspace import check_workspace
from dhhpc_kernels.parallel import run_shares

F = np.float32
_NO_BIAS = np.empty(0, np.float32)


def is_sampled(shape: Geometry) -> bool:
    """Whether it is a convolution of this kind."""
    return (
        shape.kernel == (1, 1, 1)
        and shape.padding == (0, 0, 0)
        and shape.stride[0] == 1
        and shape.stride[1:] != (1, 1)
    )


def _compact(shape: Geometry) -> Geometry:
    """The same of the sampled pixels alone."""
    return shape._replace(size=shape.out_size, stride=(1, 1, 1))


def _samples(shape: Geometry) -> int:
    """Floats of the sampled pixels."""
    return shape.batch * shape.channels * int(np.prod(shape.out_size))


def _lent(shape: Geometry, workspace: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From a workspace the samples, and what is left."""
    check_workspace(workspace, workspace_size(shape))
    return workspace[: _samples(shape)], workspace[_samples(shape) :]


def _run(kernel: Callable[..., None], shape: Geometry, whole: np.ndarray, samples: np.ndarray) -> None:
    planes = shape.batch * shape.channels * shape.size[0]
    arguments = (whole.reshape(-1, copy=False), samples, shape.size[1:], shape.out_size[1:], shape.stride[1:])
    run_shares(kernel, planes, whole.size, *arguments)


def _as_array(shape: Geometry, samples: np.ndarray) -> np.ndarray:
    return samples.reshape(shape.batch, shape.channels, *shape.out_size, copy=False)


def backward_data(
    shape: Geometry,
    grad_out: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    grad_x: np.ndarray,
    workspace: np.ndarray,
) -> None:
    """The gradient by x, plus a bias (C,)."""
    samples, rest = _lent(shape, workspace)
    array = _as_array(shape, samples)
    implicit_convolution.backward_data(_compact(shape), grad_out, weight, _NO_BIAS, array, rest)
    _run(_spread, shape, grad_x, samples)
    if bias.size:
        grad_x += bias.reshape(-1, *(1,) * (grad_x.ndim - 2))


def backward_weights(
    shape: Geometry, x: np.ndarray, grad_out: np.ndarray, grad_weight: np.ndarray, workspace: np.ndarray
) -> None:
    """grad_weight = gradient of the loss by weight."""
    samples, rest = _lent(shape, workspace)
    _run(_sample, shape, x, samples)
    array = _as_array(shape, samples)
    implicit_convolution.backward_weights(_compact(shape), array, grad_out, grad_weight, rest)


def workspace_size(shape: Geometry) -> int:
    """Number of float32 that the two functions need as workspace, for the number of threads set now."""
    return _samples(shape) + implicit_convolution.workspace_size(_compact(shape))


@compile_kernel
def _sample(
    whole: np.ndarray,
    samples: np.ndarray,
    size: tuple[int, int],
    out_size: tuple[int, int],
    stride: tuple[int, int],
    first: int,
    last: int,
) -> None:
    """Copy the pixels at a stride of planes first to last."""
    height, width = size
    rows, columns = out_size
    step_y, step_x = stride
    for plane in range(first, last):
        for row in range(rows):
            here = (plane * height + row * step_y) * width
            there = (plane * rows + row) * columns
            # A vector reads one float behind its last pixel. The last one may overlap the one before it.
            if step_x == 2 and columns >= LANES and here + 2 * columns <= whole.size:
                for i in range(0, columns, LANES):
                    column = min(i, columns - LANES)
                    copy_second(whole, here + 2 * column, samples, there + column)
            else:
                for i in range(columns):
                    samples[there + i] = whole[here + i * step_x]


@compile_kernel
def _spread(
    whole: np.ndarray,
    samples: np.ndarray,
    size: tuple[int, int],
    out_size: tuple[int, int],
    stride: tuple[int, int],
    first: int,
    last: int,
) -> None:
    """Write pixels to planes first to last at a stride, with zeros between them."""
    height, width = size
    rows, columns = out_size
    step_y, step_x = stride
    for plane in range(first, last):
        for y in range(height):
            line = whole[(plane * height + y) * width : (plane * height + y + 1) * width]
            row, rest = divmod(y, step_y)
            if rest or row >= rows:
                line[:] = F(0)
                continue
            found = samples[(plane * rows + row) * columns : (plane * rows + row + 1) * columns]
            if step_x == 2:
                pairs = width // 2
                for i in range(pairs):
                    line[2 * i] = found[i]
                    line[2 * i + 1] = F(0)
                if width % 2:
                    line[width - 1] = found[pairs]
            else:
                line[:] = F(0)
                for i in range(columns):
                    line[i * step_x] = found[i]
