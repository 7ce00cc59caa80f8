"""Studies of several variants and threads: lines of plots, tables and sentences of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dhhpc.cli.scale import as_text
from dhhpc.scaling.reports.report import report
from dhhpc.scaling.reports.wording import findings
from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.kinds import kind_of, kinds_of
from dhhpc.scaling.studies.results import (
    Epoch,
    Machine,
    Point,
    Preprocessing,
    Results,
    TimeSplit,
    table,
    write_results,
)
from dhhpc.scaling.studies.runner import summary_of
from dhhpc.scaling.studies.study import Study


def point(variant: str, ranks: int, totm: float, target: float | None, threads: int = 1) -> Point:
    split = TimeSplit(data=1, compute=totm - 10, communication=4, wait=2, validation=1, checkpoint=1, other=1)
    curve = [
        Epoch(epoch=n, seconds=n * totm / 3, training_loss=1 / n, validation_loss=2 / n) for n in (1, 2, 3)
    ]
    run = f"runs/{variant or 'plain'}-{ranks}-{threads}-{totm:g}"
    return Point(
        ranks=ranks, repeat=1, variant=variant, run=run, status="finished", threads=threads, epochs=3,
        samples=600, totm=totm, split=split, curve=curve, target_seconds=target, started="2026-01-01",
        test={"dice": 0.75}, energy="no counters",
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    study = Study(
        name="averaging",
        experiment="e.yml",
        ranks=[1, 2, 4],
        variants={
            "gradient": {"parallel": {"method": "gradient"}},
            "fixed": {"parallel": {"method": "fixed"}},
        },
        target={"metric": "dice", "value": 0.7},
    )
    points = [
        point("", 1, 120.0, 80.0),
        point("gradient", 2, 75.0, 50.0),
        point("gradient", 4, 50.0, None),
        point("fixed", 2, 66.0, 44.0),
        point("fixed", 4, 36.0, 30.0),
    ]
    experiment = dict.fromkeys(("network", "loss", "optimizer", "batch_size", "epochs", "seed"), "any")
    results = Results(
        study=study,
        repeat="dhhpc scale run study.yml",
        experiment_file="e.yml",
        experiment=experiment | {"parallel": {"method": "fixed"}},
        shards="0" * 64,
        points=points,
        rows=table(points, "strong"),
        fits=fit_points(points, "strong", experiment),
        summary=summary_of(points),
        preprocessing=Preprocessing(
            design_seconds=None, run_seconds=1.0, ranks=1, toppi=None, samples={"training": 200}
        ),
    )
    write_results(tmp_path, results)
    return results


def test_each_kind_is_a_line_that_begins_at_its_base(results):
    kinds = kinds_of(results.rows)
    assert {name: [row.ranks for row in rows] for name, rows in kinds.items()} == {
        "gradient": [1, 2, 4],
        "fixed": [1, 2, 4],
    }
    assert [kind_of(row, results.rows) for row in results.rows[:2]] == ["as it is", "gradient"]
    threads = table([point("", 1, 50.0, None, 1), point("", 1, 30.0, None, 2)], "strong")
    assert list(kinds_of(threads)) == ["1 thread", "2 threads"]
    alone = table([point("", 1, 50.0, None), point("", 2, 30.0, None)], "strong")
    assert list(kinds_of(alone)) == [""]


def test_the_first_sentences_compare_ranks_that_had_cores_of_their_own(results):
    def told(cores):
        for each in results.points:
            each.machine = Machine(hosts=["node"], cpu="any", cores=cores)
        return findings(results, str, lambda value, digits: f"{value:.{digits}f}")

    assert told(2)[:4] == [
        "gradient: training took 120.0 s on 1 rank and 75.0 s on 2 ranks: "
        "a speed-up of 1.60 at an efficiency of 0.80.",
        "It took 50.0 s on 4 ranks, which shared cores.",
        "fixed: training took 120.0 s on 1 rank and 66.0 s on 2 ranks: "
        "a speed-up of 1.82 at an efficiency of 0.91.",
        "It took 36.0 s on 4 ranks, which shared cores.",
    ]
    assert told(1)[0] == (
        "gradient: training took 120.0 s on 1 rank and 50.0 s on 4 ranks, which shared cores: "
        "a speed-up of 2.40 at an efficiency of 0.60."
    )
    slower = results.model_copy(
        update={"rows": table([*results.points[:2], point("gradient", 4, 90.0, None)], "strong")}
    )
    assert (
        findings(slower, str, lambda value, digits: f"{value:.{digits}f}")[1]
        == "It was fastest on 2 ranks: 75.0 s."
    )


def test_the_report_names_kinds_and_who_got_to_the_target(results, tmp_path):
    page = report(tmp_path).read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "gradient: training took" in re.sub("<[^>]+>", "", page)
    assert "gradient: training took 120.0 s on 1 rank and 50.0 s on 4 ranks: a speed-up of 2.40" in markdown
    assert "The validation dice of 0.700 was reached soonest, after 30.0 s, on 4 ranks (fixed)" in markdown
    assert "4 of 5 points got there" in markdown
    tables = [block for block in markdown.split("\n\n") if block.startswith("| training |")]
    assert len(tables) == 3  # times, their parts, metrics; no run was repeated, so there are no intervals
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    assert "| gradient | 4 |" in tables[0]
    assert "not reached" in tables[0]
    assert "- variant gradient: parallel method gradient" in markdown
    assert "gradient and fixed are unlike trainings" in page
    exact = {float(value) for value in re.findall(r'<data value="([^"]+)">', page)}
    known = {
        float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", json.dumps(results.model_dump()))
    }
    assert exact <= known


def test_the_table_of_the_terminal_names_kinds(results):
    lines = as_text(results).splitlines()
    assert lines[0].split()[-3:] == ["dice", "0.7", "(s)"]
    assert [line.split()[0] for line in lines[1:6]] == ["as", "gradient", "gradient", "fixed", "fixed"]
    assert lines[3].split() == ["gradient", "4", "50.0", "2.40", "0.60", "12.0", "200.0", "-"]
