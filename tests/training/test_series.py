"""Series of seeds and folds: members like single runs, and a summary that counts what is there."""

import json
import os
import shutil
import signal
import statistics
import sys
from pathlib import Path

import pytest

from dhhpc import zoo
from dhhpc.cli.app import main
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.mpi import World
from dhhpc.training import Experiment, Series, Stopped, evaluate, load_network, read_run, train, train_series
from dhhpc.training.series_summary import summarize, write_summary
from tests import synthetic
from tests.training.processes import start, wait_for_epochs, wait_for_the_end_of
from tests.training.runs import assert_identical, parameters


def experiment_of(shards: Path, output: Path, **changes) -> Experiment:
    return Experiment.model_validate(synthetic.experiment_document(shards, output, **changes))


def series_of(shards: Path, output: Path, seeds=None, folds=None, **changes) -> Series:
    return Series(experiment_of(shards, output, **changes), seeds, folds)


def trained(series: Series, **options) -> list[str]:
    return train_series(series, World(), zoo.create, **options)


@pytest.fixture(scope="module")
def seeds(discs, tmp_path_factory) -> Series:
    """Three trained members."""
    series = series_of(discs, tmp_path_factory.mktemp("series") / "run", seeds=3)
    assert trained(series) == []
    return series


@pytest.fixture
def copied(seeds, tmp_path) -> Series:
    """The same in a folder of this test's own."""
    shutil.copytree(seeds.folder, tmp_path / "run")
    return Series(seeds.experiment.model_copy(update={"output": tmp_path / "run"}), 3, None)


def test_members_are_runs_with_the_seeds_from_the_experiments_on(discs, seeds, tmp_path):
    names = [member.name for member in seeds.members]
    assert names == ["seed-3", "seed-4", "seed-5"]
    for name, seed in zip(names, (3, 4, 5), strict=True):
        alone = train(experiment_of(discs, tmp_path / name, seed=seed), World(), zoo.create)
        assert_identical(parameters(read_run(seeds.folder / name)), parameters(alone))
        assert (seeds.folder / name / "model.onnx").is_file()
        kpis = read_run(seeds.folder / name).content["kpis"]
        assert kpis["messages"] == alone.content["kpis"]["messages"]


def test_the_summary_is_that_of_the_members_metrics(seeds):
    summary = read_json(seeds.folder / "series.json")
    records = {name: read_run(seeds.folder / name) for name in ("seed-3", "seed-4", "seed-5")}
    assert summary["missing"] == []
    times = {name: record.content["kpis"]["totm"] for name, record in records.items()}
    assert summary["totm"] == {"values": times, "sum": pytest.approx(sum(times.values()))}
    assert list(summary["metrics"]) == ["validation"]
    for metric in ("loss", "auc", "accuracy"):
        values = {name: record.metrics()["validation"][metric] for name, record in records.items()}
        found = summary["metrics"]["validation"][metric]
        assert found["values"] == values
        assert found["mean"] == pytest.approx(sum(values.values()) / 3)
        assert found["deviation"] == pytest.approx(statistics.stdev(values.values()))
        half = 4.302652729911275 * found["deviation"] / 3**0.5
        assert found["interval"] == pytest.approx([found["mean"] - half, found["mean"] + half])
    assert "samples" not in summary["metrics"]["validation"]


def test_only_members_that_count_are_counted(copied):
    """One was never begun, one is another experiment's, and the third has an undefined metric."""
    shutil.rmtree(copied.folder / "seed-3")
    other = read_json(copied.folder / "seed-4" / "run.json")
    other["experiment"]["batch_size"] = 2
    write_json(copied.folder / "seed-4" / "run.json", other)
    metrics = read_json(copied.folder / "seed-5" / "metrics.json")
    metrics["validation"]["auc"] = None
    write_json(copied.folder / "seed-5" / "metrics.json", metrics | {"test": {"dice": 0.5}})
    summary = write_summary(copied.folder)
    assert summary["missing"] == ["seed-3", "seed-4"]
    statuses = {row["name"]: (row["status"], row["totm"] is None) for row in summary["members"]}
    assert statuses == {
        "seed-3": ("not started", True),
        "seed-4": ("another batch_size", True),
        "seed-5": ("finished", False),
    }
    assert "auc" not in summary["metrics"]["validation"]
    assert summary["metrics"]["test"]["dice"] == {
        "values": {"seed-5": 0.5},
        "mean": 0.5,
        "deviation": None,
        "interval": None,
        "ensemble": None,
    }
    for status, epochs, said in (
        ("stopped", 1, "stopped"),
        ("running", 1, "running"),
        ("finished", 1, "1 epochs"),
    ):
        record = read_json(copied.folder / "seed-5" / "run.json")
        record |= {"status": status, "history": record["history"][:epochs]}
        write_json(copied.folder / "seed-5" / "run.json", record)
        assert summarize(copied.folder)["members"][2]["status"] == said
    (copied.folder / "seed-5" / "run.json").write_text("{")
    assert summarize(copied.folder)["members"][2]["status"] == "damaged"
    assert summarize(copied.folder)["metrics"] == {}


def test_folds_validate_on_their_part(tmp_path):
    shards = synthetic.write_stripes(tmp_path / "stripes", {"training": 20, "validation": 7, "test": 4})
    network = {"network": {"name": "convnet", "channels": [4]}, "loss": "softmax_cross_entropy", "epochs": 1}
    series = series_of(shards, tmp_path / "run", folds=3, **network)
    assert trained(series) == []
    held: list[str] = []
    for part, member in enumerate(series.members, start=1):
        assert (member.name, member.experiment.seed) == (f"fold-{part}", 3)
        record = read_run(member.folder)
        assert record.content["samples"] == {"training": 18, "validation": 9, "test": 4}
        model, _, own = load_network(record, zoo.create)
        assert evaluate(model, own, "validation", World())["loss"] == pytest.approx(
            record.metrics()["validation"]["loss"]
        )
        held += own.identifiers("validation")
    stored = ShardSet(shards)
    assert sorted(held) == sorted(stored.identifiers("training") + stored.identifiers("validation"))
    assert summarize(series.folder)["metrics"]["validation"]["accuracy"]["interval"] is not None


def test_folds_with_seeds_share_their_cut_and_have_no_interval(discs, tmp_path):
    series = series_of(discs, tmp_path / "run", seeds=2, folds=2, epochs=1)
    names = [member.name for member in series.members]
    assert names == ["fold-1-seed-3", "fold-1-seed-4", "fold-2-seed-3", "fold-2-seed-4"]
    assert [member.experiment.data.fold.seed for member in series.members] == [3] * 4
    assert trained(series) == []
    loss = read_json(series.folder / "series.json")["metrics"]["validation"]["loss"]
    assert len(loss["values"]) == 4
    assert loss["deviation"] > 0
    assert loss["interval"] is None


def test_finished_members_are_left_alone_and_more_seeds_may_come(copied):
    before = {path: path.stat().st_mtime_ns for path in copied.folder.rglob("seed-*/*")}
    more = Series(copied.experiment, 4, None)
    assert trained(more, resume=True) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_json(copied.folder / "series.json")["metrics"]["validation"]["loss"]["values"]) == 4


def test_one_member_that_fails_does_not_stop_the_others(discs, tmp_path):
    """A file lies where the second member's folder should be; it is tried again after all others."""
    series = series_of(discs, tmp_path / "run", seeds=3, epochs=1)
    series.folder.mkdir()
    (series.folder / "seed-4").write_text("in the way")
    heard = []
    assert trained(series, listen=lambda event, values: heard.append((event, values.get("name")))) == [
        "seed-4"
    ]
    assert ("failure", "seed-4") in heard
    assert summarize(series.folder)["missing"] == ["seed-4"]
    (series.folder / "seed-4").unlink()
    heard.clear()
    assert trained(series, resume=True, listen=lambda event, values: heard.append(event)) == []
    assert heard.count("member") == 1
    assert summarize(series.folder)["missing"] == []


def test_what_makes_no_series_or_another_one_is_refused(discs, copied, tmp_path):
    def refusal(series: Series, **options) -> str:
        with pytest.raises(DhhpcError) as caught:
            trained(series, **options)
        return str(caught.value)

    experiment = copied.experiment
    assert "holds an earlier series; continue it with --resume" in refusal(copied)
    assert "the series there has seeds 3 to 5; ask for the same" in refusal(
        Series(experiment, None, 3), resume=True
    )
    assert "has 3 seeds; none of them may be dropped" in refusal(Series(experiment, 2, None), resume=True)
    changed = experiment.model_copy(update={"batch_size": 2})
    assert "started with another batch_size" in refusal(Series(changed, 3, None), resume=True)
    assert "--member 3: the series has the members 0 to 2" in refusal(copied, resume=True, only=3)
    with pytest.raises(DhhpcError, match="holds a series; go on with its --seeds or --folds"):
        train(experiment, World(), zoo.create, resume=True)
    single = experiment.model_copy(update={"output": copied.folder / "seed-3"})
    assert "holds a single run" in refusal(Series(single, 3, None), resume=True)
    for seeds, folds, part in ((0, None, "--seeds 0"), (None, 1, "--folds 1")):
        with pytest.raises(DhhpcError, match=part):
            Series(experiment, seeds, folds)
    many = series_of(discs, tmp_path / "many", folds=28)
    assert "27 images (or patients) for 28 folds" in refusal(many)
    assert not many.folder.exists()


@pytest.mark.parametrize(("event", "left"), [("end", "finished"), ("member", "stopped")])
def test_a_signal_between_two_members_is_not_lost(discs, tmp_path, event, left):
    """It comes as the first member ends, or before the training of the first has begun."""
    series = series_of(discs, tmp_path / "run", seeds=2)

    def signal_at(heard, values):
        if heard == event:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Stopped) as stopped:
        trained(series, listen=signal_at)
    assert stopped.value.code == 75
    assert [series.status(member) for member in series.members] == [left, "not started"]
    assert trained(series, resume=True) == []
    assert summarize(series.folder)["missing"] == []


def test_members_that_diverge_on_two_ranks_are_told_together(discs, tmp_path):
    """Steps of 1e30 leave no number in any network."""
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run")
    done = synthetic.run_dhhpc(
        "train", file, "--seeds", 2, "--ranks", 2, "--set", "optimizer.learning_rate=1e30"
    )
    assert done.returncode == 1, done.stderr
    assert "seed-3 failed: epoch 1" in done.stderr
    assert "seed-4 failed: epoch 1" in done.stderr
    assert "seed-3, seed-4 failed, as told above; mended, go on with --resume" in done.stderr.splitlines()[-1]
    assert "missing: seed-3 (failed), seed-4 (failed)" in done.stdout


def test_a_stopped_series_goes_on_where_it_was(discs, tmp_path):
    """On two ranks the signal comes while the second member trains; the first is not trained again."""
    command = ("--seeds", 2, "--ranks", 2, "--epochs", 15)
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run")
    first, second = tmp_path / "run" / "seed-3", tmp_path / "run" / "seed-4"
    process = start("train", file, *command)
    wait_for_epochs(second, 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    wait_for_the_end_of(tmp_path / "run")
    assert [read_run(folder).content["status"] for folder in (first, second)] == ["finished", "stopped"]
    assert read_json(tmp_path / "run" / "series.json")["missing"] == ["seed-4"]
    kept = os.stat(first / "model.npz").st_mtime_ns
    resumed = synthetic.run_dhhpc("train", file, *command, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["missing"] == []
    assert os.stat(first / "model.npz").st_mtime_ns == kept
    assert len(read_run(second).content["history"]) == 15


def test_lists_show_a_series_in_one_row(copied, capsys, monkeypatch):
    (copied.folder / "seed-5" / "run.json").unlink()
    times = [read_run(copied.folder / name).content["kpis"]["totm"] for name in ("seed-3", "seed-4")]

    def printed(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["dhhpc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    (row,) = json.loads(printed("runs", "list", copied.folder.parent, "--json"))
    assert (row["run"], row["status"]) == (str(copied.folder), "2 of 3 finished")
    assert row["totm"] == pytest.approx(sum(times), abs=1e-4)
    rows = json.loads(printed("runs", "list", copied.folder.parent, "--members", "--json"))
    names = [str(copied.folder), *(f"{copied.folder}/seed-{seed}" for seed in (3, 4))]
    assert [row["run"] for row in rows] == names
    shown = printed("runs", "show", copied.folder)
    summary = json.loads(printed("runs", "show", copied.folder, "--json"))
    assert "missing: seed-5 (not started)" in shown
    assert f"{summary['metrics']['validation']['loss']['mean']:.4f}" in shown
