"""Tables from points, and results files that are missing or damaged."""

import json

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.results import Point, TimeSplit, read_results, table


def point(ranks: int, totm: float | None, repeat: int = 1, **changes) -> Point:
    if totm is None:
        return Point(ranks=ranks, repeat=repeat, run=f"r{ranks}-{repeat}", status="failed", error="broke")
    split = TimeSplit(data=1, compute=totm - 4, communication=1, wait=1, validation=0, checkpoint=0, other=1)
    values = {"threads": 2, "samples": 600, "split": split} | changes
    return Point(ranks=ranks, repeat=repeat, run=f"r{ranks}-{repeat}", status="finished", totm=totm, **values)


def test_the_run_with_the_median_time_stands_for_its_rank_count():
    points = [
        *(point(1, totm, repeat) for repeat, totm in enumerate([100.0, 130.0, 90.0], 1)),
        *(point(2, totm, repeat) for repeat, totm in enumerate([60.0, 50.0], 1)),
    ]
    one, two = table(points, "strong")
    assert (one.run, one.runs, one.totm, one.totm_min, one.totm_max) == ("r1-1", 3, 100, 90, 130)
    assert one.split.compute == 96
    assert (one.speed_up, one.efficiency, one.samples_per_second, one.core_seconds) == (1, 1, 6, 200)
    # Of two runs, the faster one is the middle: a slow one is more likely the machine's fault.
    assert (two.run, two.totm, two.speed_up, two.efficiency) == ("r2-2", 50, 2, 1)
    assert two.core_seconds == 200


def test_intervals_are_those_of_medians_drawn_again():
    points = [
        *(point(1, totm, repeat) for repeat, totm in enumerate([100.0, 110.0, 90.0], 1)),
        *(point(2, totm, repeat) for repeat, totm in enumerate([50.0, 55.0, 60.0], 1)),
        *(point(4, totm, repeat) for repeat, totm in enumerate([30.0, 40.0], 1)),
    ]
    one, two, four = table(points, "strong")
    # Two of three drawn runs are the slowest with 7/27, the fastest likewise: beyond both tails of 2.5 %.
    assert (one.totm_interval.low, one.totm_interval.high) == (90, 110)
    assert (two.totm_interval.low, two.totm_interval.high) == (50, 60)
    assert one.confidence == 0.75
    # The same with (7/27)^2 for both at once, 6.7 %.
    assert (two.speed_up_interval.low, two.speed_up_interval.high) == pytest.approx((90 / 60, 110 / 50))
    assert (two.efficiency_interval.low, two.efficiency_interval.high) == pytest.approx((0.75, 1.1))
    # Karp and Flatt: 2 / S - 1 on two ranks.
    assert two.karp_flatt == pytest.approx(2 / (100 / 55) - 1)
    assert two.karp_flatt_interval.low == pytest.approx(2 / 2.2 - 1)
    assert two.karp_flatt_interval.high == pytest.approx(2 / 1.5 - 1)
    # One rank is the base by definition, and two runs tell no median.
    assert (one.speed_up_interval, one.karp_flatt) == (None, None)
    assert (four.totm_interval, four.speed_up_interval, four.confidence) == (None, None, None)
    assert four.karp_flatt == pytest.approx((1 / (100 / 30) - 1 / 4) / (3 / 4))
    assert [row.karp_flatt for row in table(points, "weak")] == [None, None, None]


def test_failed_points_count_for_nothing():
    rows = table([point(1, None), point(2, 40.0), point(2, None, 2), point(4, 25.0)], "strong")
    assert [(row.ranks, row.runs) for row in rows] == [(2, 1), (4, 1)]
    # Without one rank, two are the base and taken as perfectly efficient.
    assert [row.speed_up for row in rows] == [2, pytest.approx(3.2)]
    assert table([point(1, None)], "strong") == []


def test_damaged_results_are_told_in_one_line(tmp_path):
    with pytest.raises(DhhpcError, match=r"results\.json: no such file; measure first"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    path.write_text('{"study": ')
    with pytest.raises(DhhpcError, match=r"results\.json"):
        read_results(tmp_path)
    path.write_text(json.dumps({"schema_version": 1, "study": {"name": "a"}}))
    with pytest.raises(DhhpcError, match=r"version 1 where 2 is expected; run the study again .*are kept"):
        read_results(tmp_path)
    path.write_text(json.dumps({"schema_version": 2, "study": {"name": "a"}}))
    with pytest.raises(DhhpcError, match=r"results\.json: study\.experiment: .*finished points are kept"):
        read_results(tmp_path)
