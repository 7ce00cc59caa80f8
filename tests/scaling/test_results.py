"""Tables from points, and results files that are missing or damaged."""

import json

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.scaling.results import Point, TimeSplit, read_results, table


def point(ranks: int, totm: float | None, repeat: int = 1, **changes) -> Point:
    if totm is None:
        return Point(ranks=ranks, repeat=repeat, run=f"r{ranks}-{repeat}", status="failed", error="broke")
    split = TimeSplit(data=1, compute=totm - 4, communication=1, wait=1, other=1)
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
    with pytest.raises(DhhpcError, match=r"results\.json: study\.experiment: .*finished points are kept"):
        read_results(tmp_path)
