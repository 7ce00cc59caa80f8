"""What the tests of the kernels share: the kernels, comparison, and central finite differences."""

from collections.abc import Callable
from types import ModuleType

import dhhpc_kernels
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Each test asks for it by `@PROFILE`, so that other rooms' tests keep their own.
settings.register_profile(
    "kernels", deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    return dhhpc_kernels.backend("cpu")


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Largest difference over the largest expected magnitude stays below the tolerance."""

    def check(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
        expected = np.asarray(expected)
        assert actual.shape == expected.shape
        assert np.isfinite(actual).all()
        scale = max(float(np.abs(expected).max(initial=0)), 1e-6)
        assert float(np.abs(actual - expected).max(initial=0)) <= tolerance * scale

    return check


@pytest.fixture(scope="session")
def assert_gradient() -> Callable[..., None]:
    """A float32 gradient of a kernel against central differences of a float64 function of one array.

    Along random directions: the derivative along v is the product of gradient and v.
    """

    def check(
        function: Callable[[np.ndarray], float],
        point: np.ndarray,
        gradient: np.ndarray,
        tolerance: float = 1e-4,
        step: float = 1e-6,
    ) -> None:
        generator = np.random.default_rng(11)
        point = point.astype(np.float64)
        for _ in range(3):
            direction = generator.standard_normal(point.shape)
            difference = function(point + step * direction) - function(point - step * direction)
            expected = difference / (2 * step)
            scale = float(np.abs(gradient.astype(np.float64) * direction).sum()) + 1e-6
            assert abs(float((gradient * direction).sum()) - expected) <= tolerance * scale

    return check


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """Standard normal float32 arrays, the same for the same seed."""

    def sample(seed: int, *shape: int) -> np.ndarray:
        return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)

    return sample


@pytest.fixture(scope="session")
def poisoned() -> Callable[..., np.ndarray]:
    """Float32 arrays of NaN, so that what a kernel leaves unwritten, or reads from its workspace, shows."""

    def make(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan, np.float32)

    return make
