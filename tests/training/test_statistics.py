"""Mean, deviation and interval against numbers worked out by hand and tables of Student's t."""

import pytest
from scipy import stats

from dhhpc.training.statistics import spread, student_quantile, student_within


def test_by_hand():
    """0.80, 0.84, 0.88: mean 0.84; squares 0.0016 + 0 + 0.0016 over 2 = 0.0016, its root 0.04; t = 4.3027."""
    found = spread([0.80, 0.84, 0.88])
    assert found.mean == pytest.approx(0.84)
    assert found.deviation == pytest.approx(0.04)
    half = 4.30265 * 0.04 / 3**0.5  # 0.09937
    assert found.interval == pytest.approx((0.84 - half, 0.84 + half), abs=1e-6)


def test_two_values_by_hand():
    """1 and 3: mean 2, deviation root 2, t of one degree of freedom 12.706: 2 -+ 12.706."""
    found = spread([1.0, 3.0])
    assert (found.mean, found.deviation) == (2.0, pytest.approx(2**0.5))
    assert found.interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_a_single_value_has_no_deviation():
    assert vars(spread([0.5])) == {"mean": 0.5, "deviation": None, "interval": None}


def test_equal_values_have_none_to_speak_of():
    assert vars(spread([0.5, 0.5, 0.5])) == {"mean": 0.5, "deviation": 0.0, "interval": (0.5, 0.5)}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 29, 100])
def test_students_distribution_is_scipys(freedom):
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    for t in (0.0, 0.3, 1.0, 2.5, 10.0):
        expected = stats.t.cdf(t, freedom) - stats.t.cdf(-t, freedom)
        assert student_within(t, freedom) == pytest.approx(expected, abs=1e-12)
