"""Matrix products on the register-blocked inner loop, against NumPy in float64."""

import dhhpc_kernels
import numpy as np
import pytest
from dhhpc_kernels.cpu import matrix_product as module
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")


def product(a, b, shape):
    """a times b into rows of a larger array, from a workspace of NaN."""
    whole = np.full((shape[0], shape[1] + 3), np.nan, np.float32)
    out = whole[:, : shape[1]]
    workspace = np.full(module.matrix_product_workspace(*a.shape, shape[1]), np.nan, np.float32)
    module.matrix_product(a, b, out, workspace)
    assert np.isnan(whole[:, shape[1] :]).all()
    return out


def factor(draw, seed, rows, columns, transposed):
    """A matrix that is a piece of a larger one, and perhaps transposed."""
    if transposed:
        return draw(seed, columns + 2, rows + 1)[1 : columns + 1, 1:].T
    return draw(seed, rows + 2, columns + 1)[1 : rows + 1, 1:]


@PROFILE
@given(
    rows=st.integers(1, 60),
    depth=st.integers(1, 80),
    columns=st.integers(1, 120),
    transposed=st.tuples(st.booleans(), st.booleans()),
)
def test_any_shape_and_order(draw, assert_close, rows, depth, columns, transposed):
    a = factor(draw, 1, rows, depth, transposed[0])
    b = factor(draw, 2, depth, columns, transposed[1])
    out = product(a, b, (rows, columns))
    # Sums of many terms may be near zero: the error is one of the terms.
    terms = np.abs(a).astype(np.float64) @ np.abs(b)
    assert np.abs(out - a.astype(np.float64) @ b).max() <= 1e-6 * terms.max()


@pytest.mark.parametrize("shape", [(70, 1100, 50), (2100, 30, 60), (2060, 520, 25)])
def test_beyond_one_piece_of_rows_and_depth(draw, shape):
    rows, depth, columns = shape
    a, b = draw(1, rows, depth), draw(2, columns, depth).T
    out = product(a, b, (rows, columns))
    terms = np.abs(a).astype(np.float64) @ np.abs(b)
    assert np.abs(out - a.astype(np.float64) @ b).max() <= 1e-6 * terms.max()


@pytest.mark.parametrize("shape", [(300, 600, 70), (40, 600, 500)])
def test_same_bits_on_any_number_of_threads(draw, shape):
    rows, depth, columns = shape
    a, b = draw(1, depth, rows).T, draw(2, depth, columns)
    before = dhhpc_kernels.threads()
    try:
        found = []
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            found.append(product(a, b, (rows, columns)).tobytes())
    finally:
        dhhpc_kernels.set_threads(before)
    assert found[0] == found[1] == found[2]


def test_a_workspace_that_is_too_small_is_refused(draw):
    with pytest.raises(ValueError, match="the workspace lacks"):
        module.matrix_product(draw(1, 8, 9), draw(2, 9, 7), draw(3, 8, 7), np.empty(10, np.float32))
