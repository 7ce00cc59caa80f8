"""`dhhpc kpi` on runs that were trained, against sums of their records; T1 kept by hand and by the clock."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.scaling import design_time
from dhhpc.scaling.studies.models_tried import kpis_of
from dhhpc.scaling.studies.results import write_results
from tests import synthetic
from tests.scaling.synthetic_trainer import SyntheticTrainer, results_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that took 8 s on 2 ranks by its record, on shards that took 2.5 s."""
    folder = tmp_path_factory.mktemp("models")
    shards = synthetic.write_discs(folder / "shards", {"training": 8})
    index = json.loads((shards / "index.json").read_text())
    (shards / "index.json").write_text(json.dumps(index | {"seconds": 2.5}))
    experiment = synthetic.write_experiment(folder / "experiment.yml", shards, folder / "small", epochs=1)
    result = synthetic.run_here("train", experiment)
    assert result.returncode == 0, result.stderr
    set_record(folder / "small", ranks=2, threads_of_ranks=[3, 1], totm=8.0)
    return folder


def set_record(run: Path, totm: float, **changes) -> None:
    """Give the record of a run other figures, to be worked with by hand."""
    record = json.loads((run / "run.json").read_text())
    record["kpis"] |= {"totm": totm, "samples_per_second": 40.0}
    (run / "run.json").write_text(json.dumps(record | changes))


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """The same in a folder of the test's own, with another model beside it."""
    shutil.copytree(trained, tmp_path / "models")
    models = tmp_path / "models"
    shutil.copytree(models / "small", models / "large")
    set_record(models / "large", totm=32.0, ranks=4, threads_of_ranks=[1, 1, 1, 1], status="stopped")
    for run in ("small", "large"):
        record = json.loads((models / run / "run.json").read_text())
        record["experiment"]["data"]["shards"] = str(models / "shards")
        (models / run / "run.json").write_text(json.dumps(record))
    return models


def test_kpis_of_two_models_by_hand(folder):
    found = synthetic.run_here("kpi", folder / "small", folder / "large", "--json")
    assert found.returncode == 0, found.stderr
    content = json.loads(found.stdout)
    small, large = content["runs"]
    # 8 s on 4 cores and 32 s on 4 cores.
    assert (small["core_hours"], large["core_hours"]) == pytest.approx((32 / 3600, 128 / 3600))
    assert (small["samples_per_second"], small["cost"], small["joules"]) == (40.0, None, None)
    assert "scale run" in small["energy"]
    assert [model["totm"] for model in content["models"]] == [8.0, 32.0]
    # One pipeline, used twice; nobody has entered T1.
    assert [(each["run_seconds"], each["toppi"]) for each in content["pipelines"]] == [(2.5, None)]
    assert (content["ttmip"], content["at_least"]) == (None, 42.5)
    design_time.add(folder / "shards", 0.5)
    found = synthetic.run_dhhpc(
        "kpi", folder / "small", folder / "large", "--price-per-core-hour", "0.09"
    ).stdout
    assert "T1 1800.0 s, T2 2.5 s, T1 + T2 1802.5 s" in found
    assert "ttmip: 1842.5 s, of 2 models and 1 pipeline" in found
    # 32 core-seconds at 0.09 an hour.
    assert " 0.0008" in found
    assert "(stopped)" in found


def test_a_study_counts_once_and_a_series_whole(folder):
    trainer = SyntheticTrainer(samples=512)
    study = folder / "study"
    results = results_of(trainer, [1, 2], 3)
    results.preprocessing.design_seconds = 60.0
    for point in results.points:
        shutil.copytree(folder / "small", study / point.run)
        # Medians of 30 s and of 12 s.
        totm = {1: 30.0, 2: 12.0}[point.ranks] + point.repeat - 2
        set_record(study / point.run, totm=totm, ranks=point.ranks, threads_of_ranks=[1] * point.ranks)
    write_results(study, results)
    found = kpis_of([study, folder / "large"])
    assert len(found.runs) == 7
    assert [model.totm for model in found.models] == [12.0, 32.0]
    assert found.models[0].counted == "the median run on 2 ranks, the fastest"
    # T1 as the study has it.
    assert found.ttmip == 60 + 2.5 + 12 + 32
    # The same ranks on more nodes are a point of their own, not repeats: its median of 9 s is the fastest.
    for point in [point for point in results.points if point.ranks == 2]:
        run = f"runs/ranks-2-nodes-2-repeat-{point.repeat}"
        shutil.copytree(study / point.run, study / run)
        set_record(study / run, totm=7.0 + point.repeat)
        results.points.append(point.model_copy(update={"run": run, "nodes": 2}))
    write_results(study, results)
    assert [model.totm for model in kpis_of([study]).models] == [9.0]
    series = folder / "series"
    experiment = synthetic.write_experiment(folder / "series.yml", folder / "shards", series, epochs=1)
    assert synthetic.run_here("train", experiment, "--seeds", "2").returncode == 0
    times = [
        json.loads((series / f"seed-{seed}" / "run.json").read_text())["kpis"]["totm"] for seed in (3, 4)
    ]
    (model,) = kpis_of([series]).models
    assert (model.totm, model.counted) == (pytest.approx(sum(times)), "all 2 members")


def test_what_is_no_model_is_refused_in_one_line(folder):
    with pytest.raises(DhhpcError, match="shards: no run, series or study"):
        kpis_of([folder / "shards"])
    with pytest.raises(DhhpcError, match="small: is given twice"):
        kpis_of([folder / "small", folder / "large", folder / "small"])
    result = synthetic.run_here("kpi", folder / "small", "--price-per-core-hour", "-1")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "--price-per-core-hour -1" in result.stderr
    shutil.rmtree(folder / "shards")
    (gone,) = kpis_of([folder / "small"]).pipelines
    assert (gone.run_seconds, gone.toppi) == (None, None)


def test_the_clock_of_design_time(tmp_path):
    shards = tmp_path / "shards"
    assert design_time.design_seconds(shards) is None
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    design_time.start(shards, noon)
    assert design_time.design_seconds(shards) is None
    with pytest.raises(DhhpcError, match="the clock runs since 2026-03-01 12"):
        design_time.start(shards, noon)
    assert design_time.stop(shards, noon + timedelta(minutes=90)).hours == 1.5
    with pytest.raises(DhhpcError, match="no clock runs; `dhhpc kpi design-time start"):
        design_time.stop(shards)
    design_time.add(shards, -1)
    assert design_time.design_seconds(shards) == 1800
    for hours in (-0.6, float("nan"), float("inf")):
        with pytest.raises(DhhpcError, match="hours: give a number"):
            design_time.add(shards, hours)
    design_time.start(shards, noon)
    with pytest.raises(DhhpcError, match="is in the future"):
        design_time.stop(shards, noon - timedelta(hours=1))
    (tmp_path / "shards.design-time.json").write_text('{"hours": -1}')
    with pytest.raises(DhhpcError, match=r"design-time\.json: hours: .*mend it, or delete it"):
        design_time.design_seconds(shards)


def test_the_clock_on_the_command_line(tmp_path):
    assert synthetic.run_here("kpi", "design-time", "start", tmp_path / "shards").returncode == 0
    result = synthetic.run_here("kpi", "design-time", "add", tmp_path / "shards", "2")
    assert "2.00 hours of design (T1); the clock runs since" in result.stdout
    result = synthetic.run_here("kpi", "design-time", "add", tmp_path / "shards", "-0.5")
    assert "1.50 hours" in result.stdout, result.stderr
    assert "design-time" in synthetic.run_here("kpi", "--help").stdout
