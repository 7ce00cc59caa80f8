"""Studies of `dhhpc preprocess`: real runs, what is kept of them, and which documents are refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml

from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder
from dhhpc.scaling.studies.preprocessing_results import (
    PreprocessedPoint,
    read_preprocessing_results,
    table_of_preprocessing,
)
from dhhpc.scaling.studies.preprocessing_study import read_preprocessing_study
from dhhpc.scaling.studies.study import read_study
from dhhpc.usecases.nodules import prepare_nodules
from tests import synthetic


def write_pipeline(folder: Path, **changes) -> Path:
    """Nine small photographs, a pipeline that makes five shards of them, and a study on 1 and 2 ranks."""
    images = []
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"photo{number}.png")
        images.append({"location": f"photo{number}.png", "label": ("benign", "malignant")[number % 2]})
    split = {"training": [0, 1, 2, 3, 4], "test": [5, 6, 7, 8]}
    dataset = {"name": "skin", "classes": ["benign", "malignant"], "images": images, "split": split}
    (folder / "dataset.yml").write_text(yaml.safe_dump(dataset))
    pipeline = {"dataset": "dataset.yml", "output": "shards", "images_per_shard": 2}
    (folder / "preprocess.yml").write_text(yaml.safe_dump(pipeline))
    return write_study(folder, **changes)


def write_study(folder: Path, **changes) -> Path:
    values = {"name": "skin", "preprocessing": "preprocess.yml", "ranks": [2, 1]} | changes
    (folder / "study.yml").write_text(yaml.safe_dump(values))
    return folder / "study.yml"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("preprocessing")
    study = write_pipeline(folder, design_hours=0.5, warm_up=False)
    result = synthetic.run_here("scale", "run", study, "--output", folder / "scaling")
    assert result.returncode == 0, result.stderr
    return folder, result


def test_results_are_those_of_the_runs(measured, tmp_path):
    folder, result = measured
    scaling = folder / "scaling"
    results = read_preprocessing_results(scaling)
    assert [(point.ranks, point.status) for point in results.points] == [(1, "finished"), (2, "finished")]
    assert not list(folder.rglob("*.h5"))

    # What a user's run writes, into a folder of its own.
    run = synthetic.run_here("preprocess", folder / "preprocess.yml", "--output", tmp_path / "own")
    assert run.returncode == 0, run.stderr
    assert not (folder / "shards").exists()
    names = [
        f"{split}-{number:05d}.h5"
        for split, count in (("training", 3), ("test", 2))
        for number in range(count)
    ]
    contents = [(tmp_path / "own" / name).read_bytes() for name in names]
    sums = [
        [name, hashlib.sha256(content).hexdigest()] for name, content in zip(names, contents, strict=True)
    ]
    for point in results.points:
        assert point.shards == hashlib.sha256(json.dumps(sums).encode()).hexdigest() == results.shards
        assert point.bytes == sum(map(len, contents)) == results.bytes
        assert (point.samples, point.skipped) == ({"training": 5, "test": 4}, 0)
        told = (scaling / f"{point.run}.log").read_text()
        assert f"in {point.seconds:.1f} s" in told
        assert point.energy
    assert (results.images, results.shard_files, results.samples) == (9, 5, 9)

    alone, both = results.rows
    assert (alone.seconds, both.seconds) == tuple(point.seconds for point in results.points)
    assert both.speed_up == pytest.approx(alone.seconds / both.seconds)
    assert both.efficiency == pytest.approx(alone.seconds / both.seconds / 2)
    assert both.karp_flatt == pytest.approx(2 * both.seconds / alone.seconds - 1)
    assert both.samples_per_second == pytest.approx(9 / both.seconds)
    assert both.core_seconds == pytest.approx(2 * both.seconds)
    # Shards of 2, 2, 1, 2 and 2 images, dealt in turn: one rank makes 5 of the 9.
    assert (alone.most_speed_up, both.most_speed_up) == (1, 1.8)
    assert [fit.model for fit in results.fits if fit.refused] == ["amdahl", "usl"]
    fastest = min(results.rows, key=lambda row: row.seconds)
    assert results.preprocessing.toppi == 1800 + fastest.seconds
    assert results.preprocessing.ranks == fastest.ranks
    assert result.stdout.splitlines()[0].split()[:3] == ["ranks", "T2", "(s)"]
    assert "totm" not in result.stdout + (scaling / "results.json").read_text()


def test_every_figure_of_the_page_stands_in_the_results(measured):
    folder = measured[0] / "scaling"

    def numbers(value):
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from numbers(part)
        elif isinstance(value, int | float):
            yield float(value)

    known = set(numbers(json.loads((folder / "results.json").read_text())))
    page = (folder / "report.html").read_text()
    figures = re.findall(r'<data value="([^"]+)">([^<]+)</data>', page)
    assert len(figures) > 30
    for exact, shown in figures:
        assert float(exact) in known
        assert float(shown) == pytest.approx(float(exact), abs=0.5 * 10 ** -len(shown.partition(".")[2]))
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "bit for bit" in page
    assert "measured once" in page
    # Among the letters of a picture any word may come up.
    assert "totm" not in re.sub(r'src="data:image/png;base64,[^"]*"', "", page)
    markdown = (folder / "report.md").read_text()
    plots = re.findall(r"\]\((plots/[a-z-]+\.png)\)", markdown)
    assert plots == ["plots/speed-up.png", "plots/efficiency.png", "plots/time.png"]
    with PIL.Image.open(folder / plots[0]) as image:
        # The ideal line is black, what was measured blue.
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (seen == [0x00, 0x72, 0xB2]).all(axis=1).sum() > 100
    # Drawn again from the results alone, the page is the same.
    again = synthetic.run_here("scale", "report", folder)
    assert again.returncode == 0, again.stderr
    assert (folder / "report.html").read_text() == page


def test_a_study_run_again_keeps_its_points(measured, tmp_path):
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    study, scaling = tmp_path / "study.yml", tmp_path / "scaling"
    before = read_preprocessing_results(scaling)
    # One point was cut off at work, the other between its record and the removal of its shards.
    cut, kept = scaling / "runs" / "ranks-1-repeat-1", scaling / "runs" / "ranks-2-repeat-1"
    (cut / "point.json").unlink()
    for run in (cut, kept):
        (run / "shards").mkdir()
        (run / "shards" / "training-00000.h5").write_bytes(b"half a shard")
    write_study(tmp_path)
    result = synthetic.run_here("scale", "run", study, "--output", scaling, "--gather")
    assert result.returncode == 1
    assert "ranks-1-repeat-1: is not measured yet; measure it with" in result.stderr.splitlines()[-1]
    gathered = read_preprocessing_results(scaling)
    assert [point.status for point in gathered.points] == ["failed", "finished"]
    assert [row.ranks for row in gathered.rows] == [2]
    result = synthetic.run_here("scale", "run", study, "--output", scaling)
    assert result.returncode == 0, result.stderr
    assert "ranks-2-repeat-1: kept" in result.stderr
    assert "ranks-1-repeat-1: was not finished; measured anew" in result.stderr
    after = read_preprocessing_results(scaling)
    assert "warm-up: preprocessed once, not counted" in result.stderr
    assert not list(tmp_path.rglob("warm-up*"))
    assert after.points[1] == before.points[1]
    assert after.points[0].started > before.points[0].started
    assert after.points[0].shards == before.points[0].shards
    assert not list(tmp_path.rglob("*.h5"))
    # The pipeline's T1, as the study no longer tells one.
    assert after.preprocessing.design_seconds is None
    added = synthetic.run_here("kpi", "design-time", "add", tmp_path / "shards", "2")
    assert added.returncode == 0, added.stderr
    result = synthetic.run_here("scale", "run", study, "--output", scaling)
    assert read_preprocessing_results(scaling).preprocessing.design_seconds == 7200


def test_points_of_other_images_or_another_pipeline_are_refused(measured, tmp_path):
    shutil.copytree(measured[0], tmp_path, dirs_exist_ok=True)
    study, scaling = write_study(tmp_path, warm_up=False, order="listed"), tmp_path / "scaling"
    # Another image under the same name: only the shards tell.
    shutil.copy(tmp_path / "photo1.png", tmp_path / "photo0.png")
    (scaling / "runs" / "ranks-1-repeat-1" / "point.json").unlink()
    result = synthetic.run_here("scale", "run", study, "--output", scaling)
    assert result.returncode == 1
    assert "ranks-2-repeat-1: wrote other shards than the points before" in result.stderr.splitlines()[-1]
    assert [row.ranks for row in read_preprocessing_results(scaling).rows] == [1]

    def refused() -> str:
        result = synthetic.run_here("scale", "run", study, "--output", scaling)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    dataset = (tmp_path / "dataset.yml").read_text()
    (tmp_path / "dataset.yml").write_text(dataset.replace("name: skin", "name: skins"))
    assert "was preprocessed with another dataset than the pipeline's" in refused()
    with open(tmp_path / "preprocess.yml", "a") as file:
        file.write("dtype: float16\n")
    assert "was preprocessed with another dtype than the pipeline's; choose another folder" in refused()


def test_a_stopped_study_leaves_no_shards_and_goes_on_to_tell_of_failures(tmp_path):
    study, scaling = write_pipeline(tmp_path, ranks=[1], warm_up=False), tmp_path / "scaling"
    command = [sys.executable, "-m", "dhhpc", "scale", "run", str(study), "--output", str(scaling)]
    process = subprocess.Popen(command, env=synthetic.clean_environment(), stderr=subprocess.PIPE, text=True)
    log = scaling / "runs" / "ranks-1-repeat-1.log"
    end = time.monotonic() + 60
    while not log.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 128 + signal.SIGTERM
    running = subprocess.run(["pgrep", "-f", str(scaling)], capture_output=True, check=False)
    assert running.stdout == b""
    assert not list(tmp_path.rglob("*.h5"))
    (tmp_path / "photo5.png").write_bytes(b"damaged")
    result = synthetic.run_here("scale", "run", study, "--output", scaling, "--json")
    assert result.returncode == 1
    assert "photo5.png" in result.stderr.splitlines()[-1]
    assert json.loads(result.stdout)["summary"]["failed"] == 1
    assert not list(tmp_path.rglob("*.h5"))
    page = (scaling / "report.html").read_text()
    assert "No point of this study has finished." in page
    assert "photo5.png" in page


def test_rows_are_medians_over_the_fewest_ranks():
    times = {2: (12.0, 10.0, 11.0), 4: (6.0, 5.0, 8.0, 7.0)}
    points = [
        PreprocessedPoint(
            ranks=ranks, repeat=number, run=f"runs/{ranks}-{number}", status="finished", seconds=seconds,
            samples={"training": 30, "test": 3},
        )
        for ranks, runs in times.items()
        for number, seconds in enumerate(runs, 1)
    ]  # fmt: skip
    points.append(PreprocessedPoint(ranks=8, repeat=1, run="runs/8-1", status="failed", error="no disk"))
    base, more = table_of_preprocessing(points, float)
    assert (base.ranks, base.runs, base.seconds, base.run) == (2, 3, 11, "runs/2-3")
    assert (base.speed_up, base.speed_up_interval, base.karp_flatt) == (2, None, None)
    # The base is taken to be perfectly efficient: twice 11 s over the faster middle run's 6 s.
    assert (more.seconds, more.seconds_min, more.seconds_max) == (6, 5, 8)
    assert more.speed_up == pytest.approx(2 * 11 / 6)
    assert more.efficiency == pytest.approx(11 / 12)
    assert (base.seconds_interval.low, base.seconds_interval.high) == (10, 12)
    assert 2 * 10 / 8 <= more.speed_up_interval.low < 2 * 11 / 6 < more.speed_up_interval.high <= 2 * 12 / 5
    assert more.samples_per_second == pytest.approx(33 / 6)
    assert more.core_seconds == 24
    assert more.confidence == 1 - 2 / 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"a": {}}}, "variants: is for studies of training"),
        ({"threads": [1]}, "threads: is for studies of training"),
        ({"target": {"metric": "dice", "value": 0.5}}, "target: is for studies of training"),
        ({"mode": "weak"}, "mode: .*'strong'"),
        ({"ranks": [1, 1]}, "ranks: .*names a number twice"),
        ({"repeat": 3}, "repeat: .*did you mean `repeats`"),
    ],
)
def test_keys_that_make_no_sense_are_refused_in_one_line(tmp_path, changes, message):
    (tmp_path / "preprocess.yml").touch()
    with pytest.raises(DhhpcError, match=rf"study\.yml:\d+: {message}") as error:
        read_preprocessing_study(write_study(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_study_measures_one_thing(measured, tmp_path):
    study = write_study(tmp_path)
    with pytest.raises(DhhpcError, match=r"study\.yml: preprocessing: .*preprocess\.yml: no such file"):
        read_preprocessing_study(study)
    with pytest.raises(DhhpcError, match="preprocessing: names a pipeline where an experiment is needed"):
        read_study(study)

    def refused(*arguments: object) -> str:
        result = synthetic.run_here(*arguments)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        return result.stderr

    assert "measures preprocessing; drop --experiment" in refused(
        "scale", "run", study, "--experiment", "e.yml"
    )
    submitted = refused("submit", "scale", study, "--site", "virtual-cluster", "--time", "10", "--dry-run")
    assert "`dhhpc submit scale --one-job`" in submitted
    scaling = measured[0] / "scaling"
    for verb in (("kpi",), ("scale", "report", "--prometheus"), ("scale", "report", "--compare", scaling)):
        assert "measures preprocessing where a study of training is needed" in refused(*verb, scaling)
    write_study(tmp_path, experiment="e.yml")
    assert "preprocessing: stands beside `experiment`" in refused("scale", "run", study)


def test_the_ready_study_measures_the_pipeline_of_the_nodules(tmp_path):
    prepare_nodules(tmp_path / "nodules", patients=6)
    ready = resource_folder("scaling-studies") / "preprocessing.yml"
    (tmp_path / "scaling-studies").mkdir()
    study, pipeline = read_preprocessing_study(shutil.copy(ready, tmp_path / "scaling-studies"))
    assert study.name == ready.stem
    assert pipeline.resolve() == tmp_path / "nodules" / "preprocess.yml"
    assert "#   dhhpc usecase nodules --output nodules\n" in ready.read_text()
