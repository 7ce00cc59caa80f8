"""Results for other programs: lines of MLPerf's log, and Prometheus' text format."""

from __future__ import annotations

import json
import re

import pytest

from dhhpc.scaling.reports.exports import mllog, prometheus
from dhhpc.scaling.studies.results import Epoch, Point, Preprocessing, Results, TimeSplit, table
from dhhpc.scaling.studies.study import Study

# A sample as the exposition format of Prometheus defines it.
SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)'
)


@pytest.fixture
def results() -> Results:
    split = TimeSplit(data=0, compute=8, communication=0, wait=0, validation=0, checkpoint=0, other=0)
    curve = [
        Epoch(epoch=1, seconds=4.0, training_loss=0.5),
        Epoch(epoch=2, seconds=7.5, training_loss=0.25, validation_loss=0.3),
    ]
    points = [
        Point(
            ranks=2, repeat=1, run="runs/a", status="finished", threads=1, epochs=2, samples=80, totm=8.0,
            split=split, curve=curve, started="2026-01-01T00:00:00+00:00",
        ),
        Point(ranks=4, repeat=1, run="runs/b", status="failed", error="lost"),
    ]  # fmt: skip
    return Results(
        study=Study(name="s", experiment="e.yml", ranks=[2, 4]),
        repeat="",
        experiment_file="e.yml",
        experiment={"seed": 3},
        shards="0" * 64,
        points=points,
        rows=table(points, "strong"),
        preprocessing=Preprocessing(design_seconds=None, run_seconds=1, ranks=1, toppi=None, samples={}),
    )


def test_the_log_of_mlperf(results):
    lines = list(mllog(results))
    assert all(line.startswith(":::MLLOG {") for line in lines)
    found = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    start = 1767225600000  # the first of January 2026, in milliseconds
    events = [(each["key"], each["time_ms"] - start, each["value"]) for each in found]
    assert ("number_of_ranks", 0, 2) in events
    assert ("seed", 0, 3) in events
    assert events[events.index(("run_start", 0, None)) :] == [
        ("run_start", 0, None),
        ("epoch_stop", 4000, None),
        ("training_loss", 4000, 0.5),
        ("epoch_stop", 7500, None),
        ("training_loss", 7500, 0.25),
        ("eval_loss", 7500, 0.3),
        ("run_stop", 8000, None),
    ]
    assert found[-1]["metadata"] == {"status": "success", "totm_seconds": 8.0}


def test_the_text_of_prometheus(results):
    results.rows[0].variant = 'a "b"\\c'
    lines = prometheus(results).splitlines()
    samples = {}
    for line in lines:
        if not line.startswith("#"):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert labels == 'study="s",variant="a \\"b\\"\\\\c",ranks="2",threads="1"'
            samples[name] = float(value)
            assert f"# TYPE {name} gauge" in lines
    assert samples["dhhpc_totm_seconds"] == 8.0
    assert samples["dhhpc_samples_per_second"] == 10.0
    assert samples["dhhpc_core_seconds"] == 16.0
    assert "dhhpc_energy_joules" not in samples  # unknown
