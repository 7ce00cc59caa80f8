"""What a convolution's grid points meet under its taps, against a loop over them."""

import numpy as np
import pytest
from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.cpu.convolutions.geometry import (
    Correlation,
    Planes,
    backward_correlation,
    forward_correlation,
    geometry,
)
from dhhpc_kernels.cpu.convolutions.implicit_product import make_plan
from dhhpc_kernels.cpu.convolutions.pixel_runs import find_runs, gather_runs, run_tables
from dhhpc_kernels.cpu.microkernel import LINE
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")
WIDTH = 16  # of a panel


def met(source: Planes, correlation: Correlation, taps: list[tuple[int, int]], points: range) -> np.ndarray:
    """(channels, taps, points): zeros outside of a plane, and in a plane that begins at -1."""
    rows, columns = correlation.grid
    found = np.zeros((correlation.source_channels, len(taps), len(points)), np.float32)
    for j, point in enumerate(points):
        image, row, column = point // (rows * columns), point // columns % rows, point % columns
        for channel in range(correlation.source_channels):
            start = source.starts[image, channel]
            for t, tap in enumerate(taps):
                y, x = (
                    place * step + reach
                    for place, step, reach in zip((row, column), correlation.source_step, tap, strict=True)
                )
                if start >= 0 and 0 <= y < source.height and 0 <= x < source.width:
                    found[channel, t, j] = source.values[start + y * source.width + x]
    return found


@compile_kernel
def gather(source, plan, start, count, panel, lines, target):
    runs = find_runs(source, plan, start, count, WIDTH, panel, run_tables(plan, count))
    gather_runs(source, 0, plan, 0, lines, runs, target, WIDTH)


def gathered(
    source: Planes, correlation: Correlation, points: range
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    plan = make_plan(correlation, [4] * len(correlation.taps))
    taps = list(zip(plan.tap_rows.tolist(), plan.tap_columns.tolist(), strict=True))
    lines = correlation.source_channels * len(taps)
    windows = -(-len(points) // WIDTH)
    panel = lines * WIDTH + LINE
    target = np.full(windows * panel, np.nan, np.float32)
    gather(source, plan, points.start, len(points), panel, lines, target)
    panels = target.reshape(windows, panel)[:, : lines * WIDTH].reshape(windows, -1, len(taps), WIDTH)
    return np.moveaxis(panels, 0, 2).reshape(-1, len(taps), windows * WIDTH)[..., : len(points)], taps


@PROFILE
@given(st.data())
def test_what_is_gathered_is_what_the_taps_meet(data):
    size, kernel = (data.draw(st.tuples(st.integers(low, 20), st.integers(low, 40))) for low in (3, 1))
    kernel = tuple(min(k % 5 + 1, n) for k, n in zip(kernel, size, strict=True))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(data.draw(st.integers(0, k)) for k in kernel)
    shape = geometry((2, 3, *size), (2, 3, *kernel), None, stride, padding, (1, 1), 1)
    back = data.draw(st.booleans())
    correlation = (backward_correlation if back else forward_correlation)(shape)
    height, width = (shape.out_size if back else shape.size)[1:]
    channels = correlation.source_channels
    values = np.arange(1, 2 * channels * height * width + 1, dtype=np.float32)
    starts = np.arange(2 * channels, dtype=np.int64).reshape(2, channels) * (height * width)
    if data.draw(st.booleans()):
        starts[data.draw(st.integers(0, 1)), 0] = -1
    source = Planes(values, starts, height, width)
    total = 2 * correlation.grid[0] * correlation.grid[1]
    first = data.draw(st.integers(0, total - 1))
    points = range(first, data.draw(st.integers(first + 1, min(total, first + 100))))
    actual, taps = gathered(source, correlation, points)
    assert np.array_equal(actual, met(source, correlation, taps, points))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_pixels_of_small_images_are_gathered(stride):
    shape = geometry((5, 2, 3, 3), (4, 2, 3, 3), None, (stride, stride), (1, 1), (1, 1), 1)
    correlation = forward_correlation(shape)
    starts = np.arange(10, dtype=np.int64).reshape(5, 2) * 9
    source = Planes(np.arange(1, 91, dtype=np.float32), starts, 3, 3)
    points = range(1, 5 * correlation.grid[0] * correlation.grid[1])
    actual, taps = gathered(source, correlation, points)
    assert np.array_equal(actual, met(source, correlation, taps, points))
