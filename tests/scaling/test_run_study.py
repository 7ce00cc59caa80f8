"""`dhhpc scale` on real runs: the report says what the runs measured, and no finished point is lost."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dhhpc.locks import sole_use
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
    # What the record of the run tells of its machine, whose cores two ranks have divided.
    machine = results.points[1].machine
    cores = sorted(os.sched_getaffinity(0))
    assert (machine.hosts, machine.cores) == ([socket.gethostname()], len(cores))
    assert sorted(core for own in machine.binding for core in own) == (cores if len(cores) > 1 else 2 * cores)
    kilobytes = re.search(r"MemTotal: +([0-9]+) kB", Path("/proc/meminfo").read_text())[1]
    assert machine.memory_gib == pytest.approx(int(kilobytes) / 2**20)
    assert [len(load) for load in machine.load.values()] == [3]
    assert machine.load == record["load"]
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
        # In decimals: 0.415, written with two of them, may be either neighbour, and no float between.
        half = Decimal(5).scaleb(-len(shown.partition(".")[2]) - 1)
        assert abs(Decimal(shown) - Decimal(exact)) <= half


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


def test_the_forecast_of_what_was_measured_is_of_its_magnitude(measured, tmp_path):
    folder = tmp_path / "scaling"
    shutil.copytree(measured[0] / "scaling", folder)
    records = {
        ranks: json.loads((folder / f"runs/ranks-{ranks}-repeat-1/run.json").read_text()) for ranks in (1, 2)
    }
    cores = records[1]["cores"]
    link = {"latency": 1e-6, "bandwidth": 5e9}
    here = {
        "name": "here", "nodes": 1, "cores_per_node": cores, "ranks_per_node": cores,
        "within": link, "across": link,
        "memory": {"gigabytes": 4, "bandwidth": 1e10}, "storage": {"bandwidth": 1e8, "node_bandwidth": 1e8},
    }  # fmt: skip
    (tmp_path / "here.yml").write_text(yaml.safe_dump(here))
    result = synthetic.run_here(
        "scale", "report", folder, "--machine", tmp_path / "here.yml", "--ranks", "1,2"
    )
    assert result.returncode == 0, result.stderr
    (variant,) = read_results(folder).forecast.variants
    assert [row.ranks for row in variant.rows] == [1, 2][: len(variant.measured_ranks)]
    for row in variant.rows:
        epochs = records[row.ranks]["history"][1:]
        of = [
            epoch["seconds"] + epoch["validation_seconds"] + epoch["checkpoint_seconds"] for epoch in epochs
        ]
        assert min(of) / 3 < row.epoch_seconds < max(of) * 3
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 5 + 3
    assert "Forecast for here: not measured" in page


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
    # A repeat more than the study says, to measure in turn with another.
    words = ["--output", tmp_path / "again" / "scaling", "--repeats", 2, "--leave-out", "ranks-2"]
    page = tmp_path / "again" / "scaling" / "report.html"
    drawn = page.read_bytes()
    result = synthetic.run_here("scale", "run", study, *words, "--no-report")
    assert result.returncode == 0, result.stderr
    assert "report:" not in result.stdout
    assert page.read_bytes() == drawn
    more = read_results(tmp_path / "again" / "scaling")
    assert [(point.ranks, point.repeat) for point in more.points] == [(1, 1), (1, 2)]
    assert more.points[0] == before.points[0]
    assert "--repeats 2" in more.repeat


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


def remaining(folder: Path, seconds: float) -> str:
    """The processes that still have a folder in their command line after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        found = subprocess.run(
            ["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False
        ).stdout
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def finished(folder: Path) -> dict[str, float]:
    """totm of the runs that are there whole."""
    records = [json.loads(path.read_text()) for path in folder.glob("runs/ranks-*/run.json")]
    return {
        Path(each["experiment"]["output"]).name: each["kpis"]["totm"] for each in records if each["finished"]
    }


def test_a_study_killed_at_any_moment_comes_to_the_same_table(measured, discs, tmp_path):
    study, folder = write_study(tmp_path, discs, design_hours=0.5), tmp_path / "scaling"
    command = [sys.executable, "-m", "dhhpc", "scale", "run", str(study), "--output", str(folder)]
    kept: dict[str, float] = {}
    # While it starts, as its first training begins, and once a point is finished.
    moments = (
        (signal.SIGKILL, lambda: True),
        (signal.SIGTERM, lambda: (folder / "runs" / "warm-up.log").is_file()),
        (signal.SIGKILL, lambda: finished(folder)),
    )
    for number, come in moments:
        process = subprocess.Popen(
            command, env=synthetic.clean_environment(), stderr=subprocess.PIPE, text=True
        )
        end = time.monotonic() + 60
        while not come() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=40)
        assert process.returncode in (128 + number, -number)
        assert remaining(folder, 30) == ""
        now = finished(folder)
        assert now.items() >= kept.items()
        kept = now
    assert kept
    result = synthetic.run_here("scale", "run", study, "--output", folder)
    assert result.returncode == 0, result.stderr
    assert finished(folder).items() >= kept.items()

    def table(folder: Path) -> list[object]:
        """All but the seconds, and what follows from them."""
        results = read_results(folder)
        losses = [[epoch.training_loss for epoch in point.curve] for point in results.points]
        return [losses, [(row.ranks, row.runs, row.run, row.threads, row.test) for row in results.rows]]

    assert table(folder) == table(measured[0] / "scaling")


def test_two_studies_in_one_folder_do_not_disturb_each_other(discs, tmp_path, monkeypatch):
    monkeypatch.setattr("dhhpc.locks.WAIT_HERE", 0.1)
    study = write_study(tmp_path, discs, ranks=[1], warm_up=False)
    with sole_use(tmp_path / "scaling", print):
        result = synthetic.run_here("scale", "run", study, "--output", tmp_path / "scaling")
    assert result.returncode == 1
    assert "scaling: is in use by" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "scaling").exists()
