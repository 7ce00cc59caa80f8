"""Forecasts in the report of a study: worked out by hand, marked as such, apart from what was measured."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dhhpc.cli.app import command_line
from dhhpc.cli.study_forecast import add_forecast
from dhhpc.errors import DhhpcError
from dhhpc.scaling.reports.report import report
from dhhpc.scaling.studies.results import read_results
from tests.scaling.hand_made_runs import machine
from tests.scaling.hand_made_studies import hand_made_study

# Seconds of a sample: the more of the four cores are busy, the more it takes.
PACES = {1: 0.025, 2: 0.026, 4: 0.03}
VARIANTS = {
    "gradient": {"parallel": {"method": "gradient"}},
    "fixed-8": {"parallel": {"method": "fixed", "period": 8}},
}


def scale_report(*arguments: object) -> None:
    command_line()(["scale", "report", *map(str, arguments)], standalone_mode=False)


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> tuple[Path, Path]:
    """A study as it was reported without a forecast, and the same with one on 1 to 64 ranks."""
    folder = tmp_path_factory.mktemp("forecast")
    hand_made_study(folder / "before", PACES)
    report(folder / "before")
    shutil.copytree(folder / "before", folder / "after")
    # As the measured machine, and it fails now and then.
    here = machine(folder, cores_per_node=4, nodes=2, node_mtbf_hours=1.0, price_per_core_hour=2.0)
    scale_report(folder / "after", "--machine", here, "--ranks", "1,2,4,64,500")
    return folder / "before", folder / "after"


def epoch_by_hand(ranks: int) -> float:
    """400 samples, half a second beside batches, 8 images of 0.125 s, and a checkpoint."""
    return 400 / ranks * PACES[ranks] + 0.5 + 8 / ranks * 0.125 + 0.25


def test_measured_rank_counts_come_out_as_measured(studies):
    results = read_results(studies[1])
    assert results.forecast is not None
    (forecast,) = results.forecast.variants
    one, two, four, many = forecast.rows
    for row in (one, two, four):
        assert row.epoch_seconds == pytest.approx(epoch_by_hand(row.ranks))
        record = json.loads((studies[1] / f"runs/ranks-{row.ranks}/run.json").read_text())
        epoch = record["history"][-1]
        measured = epoch["seconds"] + epoch["validation_seconds"] + epoch["checkpoint_seconds"]
        assert row.epoch_seconds == pytest.approx(measured)
        assert row.speed_up == pytest.approx(epoch_by_hand(1) / epoch_by_hand(row.ranks))
    # 11.75 s on one rank, 4 s on four: 16 s of ranks, of which these are lost.
    assert four.losses == pytest.approx(
        {
            "compute": (0.9 * 12 - 0.9 * 10) / 16,
            "data": (0.1 * 12 - 0.1 * 10) / 16,
            "other": (4 * 0.5 - 0.5) / 16,
            "checkpoint": (4 * 0.25 - 0.25) / 16,
            "communication": 0,
            "wait": 0,
            "validation": 0,
        }
    )
    assert sum(four.losses.values()) == pytest.approx(1 - four.efficiency)
    assert (one.limit, one.limit_loss) == ("nothing", 0)
    assert four.limit.startswith("computing")
    assert four.limit_loss == four.losses["compute"]
    # Along the logarithm of ranks, between 2 and 4.
    high, low = 11.75 / (2 * 6.45), 11.75 / 16
    assert forecast.past == pytest.approx(2 * 2 ** ((high - 0.8) / (high - low)))
    assert forecast.measured_ranks == [1, 2, 4]
    assert (many.times_measured, many.nodes) == (16, 1)
    # A failure an hour, and checkpoints of 0.25 s.
    daly = math.sqrt(2 * 0.25 * 3600) * (1 + math.sqrt(0.25 / 7200) / 3 + 0.25 / 7200 / 9) - 0.25
    assert many.daly_seconds == pytest.approx(daly)
    assert (two.period, four.period) == (1, None)
    assert "500: free has 2 nodes of 64 ranks" in forecast.left_out[0]
    assert forecast.runs == ["runs/ranks-1", "runs/ranks-2", "runs/ranks-4"]


class Cells(HTMLParser):
    """The text of every cell of every table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "th"):
            self.inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_every_number_of_the_page_stands_in_the_results(studies):
    page = (studies[1] / "report.html").read_text()
    known = sorted(set(numbers(json.loads((studies[1] / "results.json").read_text()))))
    exact = [float(value) for value in re.findall(r'<data value="([^"]+)">', page)]
    assert set(exact) <= set(known)
    # Without the help of the elements: whatever reads as a number in a table is a rounded one of those.
    cells = [cell.strip() for cell in Cells(page).found]
    shown = [cell for cell in cells if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", cell)]
    assert len(shown) > 100
    for cell in shown:
        digits, _, power = cell.partition("e")
        unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
        assert any(abs(value - float(cell)) <= 0.5001 * unit for value in known), cell


def test_a_forecast_is_apart_from_what_was_measured(studies):
    before, after = studies
    page, markdown = (after / "report.html").read_text(), (after / "report.md").read_text()
    measured, _, forecast = page.partition('<section class="forecast">')
    forecast, _, _ = forecast.partition("</section>")
    old = (before / "report.html").read_text()
    assert "nothing is extrapolated" in old
    assert "nothing is extrapolated" not in page
    assert "forecast" not in old.partition("</style>")[2]
    # What was measured is told and drawn as it was before, figure for figure.
    start = "<h2>In short</h2>"
    assert (
        measured[measured.index(start) :].strip()
        == old[old.index(start) : old.index("<h2>What was run")].strip()
    )
    for plot in ("speed-up.png", "efficiency.png", "time.png", "loss.png", "speed-up.svg"):
        assert (before / "plots" / plot).read_bytes() == (after / "plots" / plot).read_bytes()
    assert forecast.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    for text in (re.sub("<[^>]+>", "", forecast), markdown):
        assert "Forecast for free: not measured" in text
        assert (
            "Measured were 1, 2, 4 ranks; the last row has 64 ranks, 16.00 times as many as the most" in text
        )
        assert "What limits" in text or "what limits" in text
        assert "by Daly (2006)" in text
        assert "a node fails once in 1 hours" in text
        assert "runs/ranks-4: 4 ranks, fixed; 2 epochs counted" in text
        assert "the memory of activations" in text
        assert "mean time between failures of a node" in text
    tables = [block for block in markdown.split("\n\n") if block.startswith("| ranks (forecast) |")]
    assert len(tables) == 2
    for block in tables:
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    for link in re.findall(r"\]\((plots/[a-z-]+\.png)\)", markdown):
        assert (after / link).is_file()
        assert ElementTree.parse((after / link).with_suffix(".svg")).getroot().tag.endswith("svg")
    assert f"dhhpc scale report {after} --machine" in page
    assert "--ranks 1,2,4,64,500" in markdown


def test_tables_for_other_programs(studies):
    folder, results = studies[1], read_results(studies[1])

    def lines(name: str) -> list[dict[str, str]]:
        with open(folder / "tables" / f"{name}.csv", newline="") as file:
            return list(csv.DictReader(file))

    rows = lines("scaling")
    assert [float(row["split_compute"]) for row in rows] == [row.split.compute for row in results.rows]
    assert [(row["ranks"], row["run"]) for row in lines("runs")] == [
        (str(point.ranks), point.run) for point in results.points
    ]
    losses = lines("loss")
    assert len(losses) == 9
    assert [int(row["samples"]) for row in losses[:3]] == [400, 800, 1200]
    assert [float(row["training_loss"]) for row in losses[:3]] == [1, 1 / 2, 1 / 3]
    modelled = lines("forecast")
    assert [float(row["efficiency"]) for row in modelled] == [
        row.efficiency for row in results.forecast.variants[0].rows
    ]
    assert {row["forecast"] for row in modelled} == {"free"}
    fitted = [fit for fit in results.fits if fit.refused is None]
    assert [row["name"] for row in lines("fits")] == [p.name for fit in fitted for p in fit.parameters]


def test_older_results_are_reported_without_a_forecast(studies, tmp_path):
    shutil.copytree(studies[1], tmp_path / "study")
    # Results as they were before forecasts had a place in them.
    path = tmp_path / "study" / "results.json"
    content = json.loads(path.read_text())
    del content["forecast"]
    path.write_text(json.dumps(content))
    assert read_results(tmp_path / "study").forecast is None
    scale_report(tmp_path / "study")
    names = {file.name for file in (tmp_path / "study").rglob("*") if "forecast" in file.name}
    assert names == set()
    assert (tmp_path / "study" / "report.html").read_text() == (studies[0] / "report.html").read_text()


def test_variants_are_forecast_each_or_the_one_named(tmp_path):
    study, free = tmp_path / "study", machine(tmp_path, cores_per_node=4)
    hand_made_study(study, PACES, VARIANTS)
    add_forecast(study, free, "2,8", 4000, [], None)
    forecast = read_results(study).forecast
    assert [variant.variant for variant in forecast.variants] == ["gradient", "fixed-8"]
    for variant in forecast.variants:
        own = [f"runs/{variant.variant}-ranks-{ranks}" for ranks in (2, 4)]
        assert variant.runs == [*own, "runs/ranks-1"]
        assert variant.measured_ranks == [1, 2, 4]
        # Ten times the samples, half of the cores busy, as in the runs on two ranks.
        assert variant.rows[0].epoch_seconds == pytest.approx(4000 / 2 * 0.026 + 0.5 + 0.5 + 0.25)
    # Also of a report that is written again without the option.
    scale_report(study)
    markdown = (study / "report.md").read_text()
    assert "- gradient: past " in markdown
    assert "An epoch is taken to have 4000 training samples; 400 were measured." in markdown
    add_forecast(study, free, "2,8", None, ["fixed-8"], None)
    forecast = read_results(study).forecast
    assert [variant.variant for variant in forecast.variants] == ["fixed-8"]
    assert forecast.repeat == f"dhhpc scale report {study} --machine {free} --ranks 2,8 --variant fixed-8"
    with pytest.raises(
        DhhpcError, match=r"--variant fixed: no variant of study hand; there is gradient, fixed-8$"
    ):
        scale_report(study, "--machine", free, "--variant", "fixed")
    record = study / "runs" / "gradient-ranks-2" / "run.json"
    content = json.loads(record.read_text())
    content["experiment"]["parallel"]["batch_normalization"] = "synchronised"
    record.write_text(json.dumps(content))
    with pytest.raises(
        DhhpcError, match=r"^--variant gradient: .*synchronised statistics cannot be simulated"
    ):
        add_forecast(study, free, "2,8", None, [], None)


def test_what_cannot_be_forecast_is_told_in_one_line(studies, tmp_path):
    shutil.copytree(studies[0], tmp_path / "study")
    study, free = tmp_path / "study", machine(tmp_path)

    def refused(match: str, *arguments: object) -> None:
        with pytest.raises(DhhpcError, match=match) as caught:
            scale_report(study, *arguments)
        assert "\n" not in str(caught.value)

    refused(
        "--machine nowhere: no such file or ready machine; there is ethernet-cluster, leonardo",
        "--machine",
        "nowhere",
    )
    refused("--ranks: is of a forecast; give --machine", "--ranks", "8")
    refused("forecasts for the page", "--machine", free, "--compare", study)
    refused("--ranks 2,x: 'x' is no number", "--machine", free, "--ranks", "2,x")
    refused("--ranks 999: free has 1 nodes", "--machine", free, "--ranks", "999")
    # The runs had four cores: with two, those on four ranks shared them, and nothing else is wrong.
    add_forecast(study, free, "1", None, [], 2)
    (variant,) = read_results(study).forecast.variants
    assert variant.left_out_runs == ["runs/ranks-4: 4 threads share 2 cores of a node"]
    record = study / "runs" / "ranks-2" / "run.json"
    content = json.loads(record.read_text())
    for epoch in content["history"]:
        del epoch["paces"]
    record.write_text(json.dumps(content))
    refused(r"ranks-2/run\.json: lacks 'paces', so no measured pace; train again", "--machine", free)
    shutil.rmtree(record.parent)
    refused(r"ranks-2: no run folder", "--machine", free)
    content = json.loads((study / "results.json").read_text())
    for point in content["points"]:
        point["status"] = "failed"
    (study / "results.json").write_text(json.dumps(content))
    refused("no run of study hand has finished; measure with `dhhpc scale run`", "--machine", free)
