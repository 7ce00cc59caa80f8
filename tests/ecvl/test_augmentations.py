"""Augmentations: shapes and masks in step, the right amounts, and a seed that decides everything."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dhhpc.ecvl import Augmentation

ADAPTER = pydantic.TypeAdapter(Augmentation)
GEOMETRIC = [
    {"name": "flip", "axes": "yx"},
    {"name": "rotate90"},
    {"name": "rotate", "max_degrees": 180, "max_scale": 0.3},
    {"name": "rotate", "max_degrees": 30, "border": "constant"},
]
INTENSITY = [
    {"name": "intensity"},
    {"name": "gamma"},
    {"name": "noise", "deviation": 0.5},
    {"name": "blur"},
    {"name": "dropout"},
]


def smooth_image(rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    return rng.random((channels, height, width), dtype=np.float32)


@settings(max_examples=80, deadline=None)
@given(
    settings_of=st.sampled_from(GEOMETRIC + INTENSITY),
    channels=st.integers(1, 5),
    height=st.integers(2, 24),
    width=st.integers(2, 24),
    seed=st.integers(0, 2**32 - 1),
    layered=st.booleans(),
)
def test_shapes_dtypes_and_seed(settings_of, channels, height, width, seed, layered):
    step = ADAPTER.validate_python(settings_of)
    source = np.random.default_rng(seed)
    image = smooth_image(source, channels, height, width)
    mask = source.integers(0, 3, (2, height, width) if layered else (height, width)).astype(np.uint8)
    before = image.copy(), mask.copy()
    results = [step.apply(image, mask, mask, np.random.default_rng(seed)) for _ in range(2)]
    for changed, moved, region in results:
        assert (changed.shape, changed.dtype) == (image.shape, np.float32)
        assert (moved.shape, moved.dtype) == (mask.shape, mask.dtype)
        assert np.array_equal(moved, region)
        assert set(np.unique(moved)) <= {0, *np.unique(mask)}
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
    assert step.apply(image, None, None, np.random.default_rng(seed))[1:] == (None, None)


@pytest.mark.parametrize("settings_of", GEOMETRIC)
@pytest.mark.parametrize("seed", range(12))
def test_mask_moves_with_the_image(settings_of, seed):
    """The moved mask of a disc is the moved disc, up to interpolation at its rim."""
    y, x = np.mgrid[:48, :48]
    disc = ((y - 20) ** 2 + (x - 29) ** 2 < 64).astype(np.float32)
    step = ADAPTER.validate_python(settings_of)
    image, mask, _ = step.apply(disc[None], disc.astype(np.uint8), None, np.random.default_rng(seed))
    assert mask.sum() > 30
    assert np.abs((image[0] > 0.5).astype(int) - mask).sum() <= 0.12 * mask.sum()


@pytest.mark.parametrize("settings_of", INTENSITY)
def test_intensity_changes_values_and_never_masks(settings_of):
    rng = np.random.default_rng(5)
    image, mask = smooth_image(rng, 2, 16, 16), rng.integers(0, 2, (16, 16)).astype(np.uint8)
    changed, kept, region = ADAPTER.validate_python(settings_of).apply(image, mask, mask, rng)
    assert not np.array_equal(changed, image)
    assert kept is mask
    assert region is mask


def test_flip_happens_as_often_as_asked():
    step = ADAPTER.validate_python({"name": "flip", "axes": "yx", "probability": 0.3})
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    rng = np.random.default_rng(0)
    seen = [step.apply(image, None, None, rng)[0] for _ in range(2000)]
    for axes, share in (((), 0.49), ((-1,), 0.21), ((-2,), 0.21), ((-2, -1), 0.09)):
        wanted = np.flip(image, axes)
        count = sum(np.array_equal(result, wanted) for result in seen)
        assert stats.binomtest(count, 2000, share).pvalue > 1e-4


def test_probability_of_the_others():
    step = ADAPTER.validate_python({"name": "noise", "probability": 0.25})
    image, rng = np.zeros((1, 4, 4), np.float32), np.random.default_rng(0)
    count = sum(step.apply(image, None, None, rng)[0] is not image for _ in range(2000))
    assert stats.binomtest(count, 2000, 0.25).pvalue > 1e-4


def test_quarter_turns_keep_the_shape():
    step = ADAPTER.validate_python({"name": "rotate90"})
    square, wide = np.arange(9.0).reshape(1, 3, 3), np.arange(6.0).reshape(1, 2, 3)
    turns = {step.apply(square, None, None, np.random.default_rng(seed))[0].tobytes() for seed in range(50)}
    assert turns == {np.ascontiguousarray(np.rot90(square, k, (1, 2))).tobytes() for k in range(4)}
    turns = {step.apply(wide, None, None, np.random.default_rng(seed))[0].tobytes() for seed in range(50)}
    assert turns == {np.ascontiguousarray(np.rot90(wide, k, (1, 2))).tobytes() for k in (0, 2)}


def test_amounts():
    rng = np.random.default_rng(0)
    image = np.full((1, 400, 400), 0.5, np.float32)
    noise = ADAPTER.validate_python({"name": "noise", "deviation": 0.1})
    deviations = [float((noise.apply(image, None, None, rng)[0] - image).std()) for _ in range(60)]
    assert 0.08 < max(deviations) < 0.102
    assert min(deviations) < 0.02
    gamma = ADAPTER.validate_python({"name": "gamma", "low": 0.5, "high": 2})
    exponents = [
        float(np.log(gamma.apply(image, None, None, rng)[0][0, 0, 0]) / np.log(0.5)) for _ in range(60)
    ]
    assert 0.5 <= min(exponents) < 0.6 < 1.7 < max(exponents) <= 2.0001
    ramp = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, 101)
    contrast = ADAPTER.validate_python({"name": "intensity", "contrast": 0.2, "brightness": 0.1})
    slopes, shifts = [], []
    for _ in range(60):
        changed = contrast.apply(ramp, None, None, rng)[0][0, 0]
        slopes.append(float(changed[-1] - changed[0]))
        shifts.append(float(changed.mean() - 0.5))
    assert 0.8 <= min(slopes) < 0.84 < 1.16 < max(slopes) <= 1.2001
    assert -0.1001 <= min(shifts) < -0.08 < 0.08 < max(shifts) <= 0.1001


@pytest.mark.parametrize(
    "settings_of",
    [
        {"name": "flop"},
        {"name": "flip", "axes": "z"},
        {"name": "flip", "probability": 1.5},
        {"name": "rotate", "degrees": 5},
        {"name": "noise", "deviation": -1},
    ],
)
def test_wrong_settings_are_refused(settings_of):
    with pytest.raises(pydantic.ValidationError):
        ADAPTER.validate_python(settings_of)
