"""Dropout against Philox written anew with NumPy, which is checked by published numbers first."""

import dhhpc_kernels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROFILE = settings.get_profile("kernels")

CONSTANTS = {
    32: ((0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)),
    64: ((0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)),
}


def philox(counter: list[int], key: list[int], bits: int) -> list[int]:
    """Philox4x`bits` of 10 rounds (Salmon et al. 2011) in Python's whole numbers."""
    multipliers, steps = CONSTANTS[bits]
    mask = 2**bits - 1
    for number in range(10):
        keys = [(k + number * step) & mask for k, step in zip(key, steps, strict=True)]
        first, second = multipliers[0] * counter[0], multipliers[1] * counter[2]
        counter = [
            (second >> bits) ^ counter[1] ^ keys[0],
            second & mask,
            (first >> bits) ^ counter[3] ^ keys[1],
            first & mask,
        ]
    return counter


def test_the_reference_gives_the_published_numbers():
    """kat_vectors of the authors' Random123, and NumPy's generator for the form of 64 bits."""
    ones = 0xFFFFFFFF
    for counter, key, expected in [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ones] * 4, [ones] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]:
        assert " ".join(f"{word:08x}" for word in philox(counter, key, 32)) == expected
    theirs = np.random.Philox(counter=[4, 5, 6, 7], key=[8, 9]).random_raw(4)
    assert philox([5, 5, 6, 7], [8, 9], 64) == theirs.tolist()  # NumPy counts up first


def kept(shape: tuple[int, ...], rate: float, seed: int, layer: int, step: int, first: int) -> np.ndarray:
    length = int(np.prod(shape[1:]))
    key = [seed & 0xFFFFFFFF, seed >> 32]
    mask = np.empty((shape[0], length), bool)
    for n in range(shape[0]):
        for start in range(0, length, 1024):
            width = -(-min(1024, length - start) // 4)
            words = [philox([start // 4 + i, first + n, step, layer], key, 32) for i in range(width)]
            flat = np.array(words).T.ravel()[: length - start]
            mask[n, start : start + flat.size] = flat >= round(rate * 2**32)
    return mask.reshape(shape)


@PROFILE
@given(
    shape=st.sampled_from([(1, 1), (3, 5), (2, 1024), (1, 1025), (2, 3, 5, 7), (1, 2, 33, 31)]),
    rate=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    seed=st.integers(0, 2**64 - 1),
    place=st.tuples(*[st.integers(0, 1000)] * 3),
)
def test_dropout_keeps_what_philox_says(shape, rate, seed, place, kernels, draw, poisoned):
    x, out = draw(1, *shape), poisoned(*shape)
    kernels.dropout(x, out, rate, seed, *place)
    expected = np.where(kept(shape, rate, seed, *place), x * np.float32(1 / (1 - rate)), 0)
    assert np.array_equal(out, expected)
    kernels.dropout(x, x, rate, seed, *place)
    assert np.array_equal(x, out)


def test_share_and_mean_are_right_and_masks_are_independent(kernels):
    x = np.ones((40, 5000), np.float32)
    out = np.empty((6, *x.shape), np.float32)
    # Another seed, layer and step, and another rank's samples.
    for number, place in enumerate([(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 40)]):
        kernels.dropout(x, out[number], 0.3, *place)
    masks = (out[:5] > 0).reshape(5, -1)
    deviation = np.sqrt(0.3 * 0.7 / x.size)
    assert np.abs(masks.mean(axis=1) - 0.7).max() < 5 * deviation
    correlations = np.corrcoef(masks) - np.eye(5)
    assert np.abs(correlations).max() < 5 / np.sqrt(x.size)
    # One rank draws for all samples what two draw for their halves.
    kernels.dropout(x, out[5], 0.3, 1, 0, 0, 20)
    assert np.array_equal(out[5][:20], out[0][20:])


def test_rate_is_checked(kernels, poisoned):
    x = poisoned(1, 1)
    for rate in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="rate"):
            kernels.dropout(x, x, rate, 1, 0, 0)


def test_same_bits_on_any_number_of_threads_with_one_sample(kernels, draw):
    """The blocks of a sample are shared out, not the samples."""
    x = draw(1, 1, 300_001)
    results = []
    before = dhhpc_kernels.threads()
    try:
        for threads in (1, 2, 3):
            dhhpc_kernels.set_threads(threads)
            results.append(np.empty_like(x))
            kernels.dropout(x, results[-1], 0.5, 7, 1, 2)
    finally:
        dhhpc_kernels.set_threads(before)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
