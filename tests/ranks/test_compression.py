"""Vectors of few bytes: against NumPy's halves, PyTorch's bfloat16, and sums in float64."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dhhpc.mpi import BFloat16, CompressedSum, Float16, TopK, connect
from dhhpc.mpi.launch import mpiexec
from tests import synthetic
from tests.ranks import compressed_sums

# With NaN, infinity, zeros of both signs and denormal numbers.
VECTORS = arrays.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
# Just below the largest float32; larger ones round to 2**128.
LARGEST = 3.4e38


def there_and_back(compression, vector):
    payload = np.full(compression.size_of(vector.size) + 3, 255, np.uint8)  # 3 bytes that stay
    compression.encode(vector, payload)
    assert payload[-3:].tolist() == [255] * 3
    result = np.zeros_like(vector)
    compression.add(payload, result)
    left_over = vector.copy()
    compression.add(payload, left_over, -1)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(left_over, vector - result)
    return result


@given(VECTORS)
@settings(max_examples=200, deadline=None)
def test_bfloat16_is_pytorchs(vector):
    expected = torch.tensor(vector).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(there_and_back(BFloat16(), vector), expected)


def test_bfloat16_rounds_to_even_and_keeps_every_nan():
    one = np.uint32(0x3F800000)
    bits = [one + 0x7FFF, one + 0x8000, one + 0x8001, one + 0x18000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF]
    found = there_and_back(BFloat16(), np.array(bits, np.uint32).view(np.float32))
    assert found[:4].view(np.uint32).tolist() == [one, one, one + 0x10000, one + 0x20000]
    assert np.isnan(found[4:6]).all()
    assert found[6] == np.inf  # nearer than the largest number of 8 bits


@given(VECTORS)
@settings(max_examples=200, deadline=None)
def test_halves_are_numpys_of_the_scaled_vector(vector):
    """Scaled in float64, where powers of two cost no bits: what is finite stays finite."""
    finite = np.isfinite(vector)
    vector[finite] = vector[finite].clip(-LARGEST, LARGEST)
    found = there_and_back(Float16(), vector)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    np.testing.assert_array_equal(found[~finite], vector[~finite])
    largest = float(np.abs(vector[finite]).max(initial=0))
    if largest:
        scale = 2.0 ** min(14 - math.floor(math.log2(largest)), 126)
        expected = (vector[finite].astype(np.float64) * scale).astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(found[finite], (expected / np.float64(scale)).astype(np.float32))
        # 11 bits, down to 2**-29 of the largest; smaller ones are denormal halves.
        error = np.abs(found[finite].astype(np.float64) - vector[finite])
        bound = np.maximum(np.abs(vector[finite].astype(np.float64)) * 2**-11, largest * 2.0**-38)
        assert (error <= bound + (2.0**-140 if scale == 2.0**126 else 0)).all()


def test_halves_do_not_overflow_and_keep_small_gradients():
    found = there_and_back(Float16(), np.array([LARGEST, -LARGEST, 65520, 1], np.float32))
    np.testing.assert_allclose(found[:2], [LARGEST, -LARGEST], rtol=2**-11)
    small = np.array([3e-9, -1e-9], np.float32)  # zeros as halves
    np.testing.assert_allclose(there_and_back(Float16(), small), small, rtol=2**-11)


@given(VECTORS, st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_top_k_sends_the_largest_exactly(vector, ratio):
    compression = TopK(ratio)
    kept = min(vector.size, max(1, math.ceil(ratio * vector.size)))
    assert compression.size_of(vector.size) == 8 * kept
    found = there_and_back(compression, vector)
    ranking = np.nan_to_num(np.abs(vector), nan=np.inf, posinf=np.finfo(np.float32).max).astype(np.float64)
    ranking[np.isinf(vector)] = 1e39  # below NaN alone
    sent = np.flatnonzero(found != 0)
    np.testing.assert_array_equal(found[sent], vector[sent])
    assert len(sent) == min(kept, np.count_nonzero(vector))
    np.testing.assert_array_equal(np.sort(ranking[sent]), np.sort(ranking)[::-1][: len(sent)][::-1])


@pytest.mark.mpi
@pytest.mark.parametrize("compression", [Float16(), BFloat16(), TopK(0.05)], ids=["fp16", "bf16", "top-k"])
def test_sums_with_what_is_left_over_are_those_of_all_vectors(compression):
    compressed_sums.check(connect(), compression)


def test_sums_on_four_ranks():
    command = [*mpiexec(4), sys.executable, compressed_sums.__file__]
    done = subprocess.run(
        command,
        env=synthetic.clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as expected") == 4


@pytest.mark.mpi
def test_no_number_is_hidden_that_is_none():
    world = connect()
    for compression in (Float16(), BFloat16(), TopK(0.1)):
        for number in (np.nan, np.inf, -np.inf):
            vector = np.linspace(-1, 1, 40, dtype=np.float32)
            if world.rank == world.size - 1:
                vector[7] = number
            total = CompressedSum(world, 40, compression)
            total.begin(vector).wait()
            np.testing.assert_array_equal(vector[7], number)
            assert np.isfinite(np.delete(vector, 7)).all()
