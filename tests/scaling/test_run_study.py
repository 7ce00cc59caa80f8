"""`dhhpc scale` on real runs: the report says what the runs measured, and no finished point is lost."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dhhpc.scaling.studies.results import read_results
from tests import synthetic


def write_study(folder: Path, shards: Path, **changes) -> Path:
    """An experiment of some seconds, and a study of it on 1 and 2 ranks."""
    synthetic.write_experiment(folder / "experiment.yml", shards, folder / "run", epochs=3)
    values = {"name": "discs", "experiment": "experiment.yml", "ranks": [1, 2]} | changes
    (folder / "study.yml").write_text(yaml.safe_dump(values))
    return folder / "study.yml"


@pytest.fixture(scope="module")
def measured(discs, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder, discs, design_hours=0.5)
    result = synthetic.run_here("scale", "run", study, "--output", folder / "scaling")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_results_are_those_of_the_runs(measured, discs):
    folder = measured[0] / "scaling"
    results = read_results(folder)
    assert [(point.ranks, point.status) for point in results.points] == [(1, "finished"), (2, "finished")]
    times = []
    for point, row in zip(results.points, results.rows, strict=True):
        record = json.loads((folder / point.run / "run.json").read_text())
        times.append(record["kpis"]["totm"])
        assert point.totm == row.totm == times[-1]
        assert len(record["history"]) == 3
        assert point.samples == 3 * 21
        assert point.test == row.test
        assert (
            point.test["dice"]
            == json.loads((folder / point.run / "metrics.json").read_text())["test"]["dice"]
        )
        compute = sum(sum(rank["compute"] for rank in epoch["ranks"]) for epoch in record["history"])
        assert row.split.compute == pytest.approx(compute / point.ranks)
        parts = row.split.model_dump().values()
        assert sum(parts) == pytest.approx(row.totm)
        assert [epoch.training_loss for epoch in point.curve] == [e["loss"] for e in record["history"]]
        assert (folder / point.run / "model.onnx").is_file()
    assert results.rows[1].speed_up == pytest.approx(times[0] / times[1])
    assert results.rows[1].efficiency == pytest.approx(times[0] / times[1] / 2)
    # Karp and Flatt on two ranks: 2 / S - 1.
    assert results.rows[1].karp_flatt == pytest.approx(2 * times[1] / times[0] - 1)
    assert [fit.model for fit in results.fits if fit.refused] == ["amdahl", "usl", "mechanistic"]
    # Averaging after each of 3 epochs of 3 batches, on two ranks of one machine.
    meetings = results.points[1].meetings
    assert (meetings.nodes, meetings.batches, meetings.averagings) == (1, 9, 9)
    assert results.points[0].energy
    index = json.loads((discs / "index.json").read_text())
    assert results.preprocessing.toppi == 1800 + index["seconds"]
    assert not (folder / "runs" / "warm-up").exists()


def test_every_figure_of_the_page_stands_in_the_results(measured):
    """Each <data> element's exact value is a number somewhere in results.json, or a count of points."""
    folder = measured[0] / "scaling"
    content = json.loads((folder / "results.json").read_text())

    def numbers(value):
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from numbers(part)
        elif isinstance(value, int | float):
            yield float(value)

    known = set(numbers(content))
    page = (folder / "report.html").read_text()
    figures = re.findall(r'<data value="([^"]+)">([^<]+)</data>', page)
    assert len(figures) > 40
    for exact, shown in figures:
        assert float(exact) in known
        assert float(shown) == pytest.approx(float(exact), abs=0.5 * 10 ** -len(shown.partition(".")[2]))


def test_the_page_stands_alone_and_the_markdown_beside_its_plots(measured):
    folder = measured[0] / "scaling"
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:)', page)
    markdown = (folder / "report.md").read_text()
    linked = re.findall(r"\]\((plots/[a-z-]+\.png)\)", markdown)
    assert len(linked) == 5
    for name in linked:
        with Image.open(folder / name) as image:
            width, height = image.size
            # A paper's column of 3.5 inches at 200 dots an inch or more, and not blank.
            assert width >= 700
            assert height >= 500
            assert len(image.convert("L").getcolors()) > 20
    assert "says nothing about more ranks" in page
    assert "measured once" in page


def test_the_same_results_give_the_same_report(measured, tmp_path):
    folder = measured[0] / "scaling"
    shutil.copytree(folder, tmp_path / "copy")
    for path in (tmp_path / "copy" / "plots").iterdir():
        path.unlink()
    result = synthetic.run_here("scale", "report", tmp_path / "copy")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "copy" / "report.html")
    for path in (folder / "plots").iterdir():
        assert path.read_bytes() == (tmp_path / "copy" / "plots" / path.name).read_bytes()
    assert (folder / "report.html").read_text() == (tmp_path / "copy" / "report.html").read_text()


def test_a_study_run_again_keeps_its_points(measured, tmp_path):
    folder, first = measured
    shutil.copytree(folder, tmp_path / "again")
    study = tmp_path / "again" / "study.yml"
    # A point that was cut off is trained anew; the other is kept.
    record = tmp_path / "again" / "scaling" / "runs" / "ranks-2-repeat-1" / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"status": "running"}))
    before = read_results(folder / "scaling")
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "again" / "scaling", "--gather")
    assert result.returncode == 1
    assert "ranks-2-repeat-1: is running; wait for it, or measure it anew" in result.stderr.splitlines()[-1]
    gathered = read_results(tmp_path / "again" / "scaling")
    assert [point.status for point in gathered.points] == ["finished", "failed"]
    assert gathered.points[0] == before.points[0]
    # Results of an earlier version cannot be reported, but do not cost a point.
    earlier = tmp_path / "again" / "scaling" / "results.json"
    earlier.write_text(json.dumps(json.loads(earlier.read_text()) | {"schema_version": 1}))
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "again" / "scaling")
    assert result.returncode == 0, result.stderr
    assert "ranks-1-repeat-1: kept" in result.stderr
    assert "ranks-2-repeat-1: was not finished; trained anew" in result.stderr
    after = read_results(tmp_path / "again" / "scaling")
    assert after.points[0] == before.points[0]
    assert after.points[1].totm != before.points[1].totm
    assert after.points[1].test == before.points[1].test  # the same seed trains the same network
    assert first.stdout.splitlines()[0].split()[:2] == ["ranks", "totm"]


def test_points_of_another_experiment_or_other_shards_are_refused(measured, tmp_path):
    folder = measured[0]
    shutil.copytree(folder, tmp_path / "changed")
    study = tmp_path / "changed" / "study.yml"
    experiment = tmp_path / "changed" / "experiment.yml"
    original = yaml.safe_load(experiment.read_text())
    experiment.write_text(yaml.safe_dump(original | {"batch_size": 2}))
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "changed" / "scaling")
    assert result.returncode == 1
    assert "another batch_size than the experiment; choose another folder" in result.stderr
    others = synthetic.write_discs(tmp_path / "others", {"training": 21, "test": 5}, seed=9)
    experiment.write_text(yaml.safe_dump(original | {"data": {"shards": str(others)}}))
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "changed" / "scaling")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "other shards" in result.stderr


def test_a_failed_point_costs_no_other(discs, tmp_path):
    """30 ranks are more than the 21 training samples: that point fails, the others are reported."""
    study = write_study(tmp_path, discs, ranks=[1, 30], warm_up=False)
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "scaling", "--json")
    assert result.returncode == 1
    assert "21 training samples for 30 ranks" in result.stderr.splitlines()[-1]
    points = read_results(tmp_path / "scaling").points
    assert [point.status for point in points] == ["finished", "failed"]
    assert "30 ranks" in points[1].error
    assert json.loads(result.stdout)["summary"]["failed"] == 1
    page = (tmp_path / "scaling" / "report.html").read_text()
    assert "points failed" in page
    assert "21 training samples for 30 ranks" in page


def test_a_terminated_study_ends_its_training_and_goes_on_later(discs, tmp_path):
    study = write_study(tmp_path, discs, ranks=[1], warm_up=False)
    command = [
        sys.executable,
        "-m",
        "dhhpc",
        "scale",
        "run",
        str(study),
        "--output",
        str(tmp_path / "scaling"),
    ]
    process = subprocess.Popen(command, env=synthetic.clean_environment(), stderr=subprocess.PIPE, text=True)
    log = tmp_path / "scaling" / "runs" / "ranks-1-repeat-1.log"
    end = time.monotonic() + 60
    while not log.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM
    running = subprocess.run(["pgrep", "-f", str(tmp_path / "scaling")], capture_output=True, check=False)
    assert running.stdout == b""
    result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "scaling")
    assert result.returncode == 0, result.stderr
    assert [point.status for point in read_results(tmp_path / "scaling").points] == ["finished"]
