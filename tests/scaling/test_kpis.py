"""The KPIs on figures worked out by hand."""

import pytest

from dhhpc.scaling import kpis


def test_strong_scaling_from_one_rank():
    """100 s on one rank and 30 s on four: 3.33 times as fast, at 83 % efficiency."""
    speed_up = kpis.speed_up(1, 100.0, 4, 30.0, "strong")
    assert speed_up == pytest.approx(10 / 3)
    assert kpis.efficiency(speed_up, 4) == pytest.approx(5 / 6)


def test_strong_scaling_from_a_base_of_more_ranks():
    """Two ranks count as twice one, so 60 s on two and 15 s on eight are a speed-up of 8."""
    assert kpis.speed_up(2, 60.0, 2, 60.0, "strong") == 2
    assert kpis.speed_up(2, 60.0, 8, 15.0, "strong") == 8


def test_weak_scaling():
    """Four times the work in 1.25 times the time: 3.2 times as fast."""
    assert kpis.speed_up(1, 80.0, 4, 100.0, "weak") == pytest.approx(3.2)
    assert kpis.efficiency(3.2, 4) == pytest.approx(0.8)
    assert kpis.speed_up(2, 80.0, 2, 80.0, "weak") == 2


def test_toppi_needs_both_parts():
    assert kpis.time_of_preprocessing(7200.0, 12.5) == 7212.5
    assert kpis.time_of_preprocessing(None, 12.5) is None
    assert kpis.time_of_preprocessing(7200.0, None) is None


def test_karp_flatt_undoes_amdahl():
    """A serial fraction of 0.07 gives the speed-up 1 / (0.07 + 0.93 / n), on any number of ranks."""
    for ranks in (2, 3, 8, 1000):
        assert kpis.karp_flatt(1 / (0.07 + 0.93 / ranks), ranks) == pytest.approx(0.07)
    # 4 ranks, 3 times as fast: (1/3 - 1/4) / (3/4) = 1/9. More than n times as fast: below zero.
    assert kpis.karp_flatt(3.0, 4) == pytest.approx(1 / 9)
    assert kpis.karp_flatt(5.0, 4) < 0


def test_ttmip_sums_pipelines_and_models():
    assert kpis.time_to_model([7212.5, 100.0], [60.0, 50.0, 40.0]) == 7462.5


def test_rates_and_costs():
    assert kpis.samples_per_second(3000, 60.0) == 50
    assert kpis.core_seconds(60.0, 4, 8) == 1920
    assert kpis.core_hours(7200.0) == 2
    assert kpis.cost(7200.0, 0.05) == pytest.approx(0.1)
