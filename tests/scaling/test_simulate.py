"""`dhhpc scale simulate` on the record of a real run, and on records whose forecast is worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from dhhpc.cli.app import command_line
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder
from dhhpc.scaling.forecasts.noise import jitter_of, step_deviation, traced_residuals
from dhhpc.scaling.resources.calibration import read_measured
from tests import synthetic
from tests.scaling.hand_made_runs import NOTHING, machine, record

LEONARDO = resource_folder("scaling-studies") / "machines" / "leonardo-dcgp.yml"


@pytest.fixture(scope="module")
def run(discs, tmp_path_factory) -> Path:
    """Two ranks, four epochs of 21 samples in 3 batches of at most 4 samples a rank, with timelines."""
    folder = tmp_path_factory.mktemp("simulate")
    parallel = {"method": "fixed", "period": 2}
    file = synthetic.write_experiment(folder / "e.yml", discs, folder / "run", epochs=4, parallel=parallel)
    trained = synthetic.run_dhhpc("train", file, "--ranks", 2, "--trace", 10)
    assert trained.returncode == 0, trained.stderr
    return folder / "run"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints."""
    command_line()(["scale", "simulate", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def test_a_real_run_is_forecast_on_a_ready_machine(run: Path, tmp_path: Path, capsys) -> None:
    arguments = [run, "--machine", LEONARDO, "--samples", 256, "--ranks", "1,2,64,4000"]
    text = call(capsys, *arguments, "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "forecast.json").read_text())
    content = json.loads((run / "run.json").read_text())
    assert content["cores"] >= 1
    work = [[rank["data"] + rank["compute"] for rank in epoch["ranks"]] for epoch in content["history"][1:]]
    seconds = [sum(ranks) / 21 for ranks in work]
    measured = found["measured"]
    assert measured["pace"]["sample"] == pytest.approx(median(seconds))
    # Of each of three epochs and two ranks, the two whole batches.
    assert measured["jitter"]["residuals"] == 12
    assert np.mean(traced_residuals(run)) == pytest.approx(1)
    rows = found["modelled"]
    assert [row["ranks"] for row in rows] == [1, 2, 64]
    assert found["left_out"] == [
        "--ranks 4000: 256 training samples are fewer than the ranks; ask for fewer, or assume more samples "
        "with --samples"
    ]
    # One rank waits for nobody: 64 batches of 4, 6 images, and a checkpoint that is copied in no time.
    pace = measured["pace"]
    alone = 256 * pace["sample"] + 64 * (pace["step"] + pace["other"]) + 6 * pace["image"] + pace["epoch"]
    assert rows[0]["epoch_seconds"] == pytest.approx(alone + pace["checkpoint"], rel=0.001)
    for row in rows:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.02)
        assert row["speed_up"] == pytest.approx(row["efficiency"] * row["ranks"])
        assert row["price"] == pytest.approx(0.01 * row["core_hours"])
        assert row["best_epochs"] in range(1, 5)
    assert rows[0]["efficiency"] == pytest.approx(1)
    assert rows[-1]["efficiency"] < 1
    for words in ("what limits is", "efficiency", "by Daly (2006)", "measured:", "takes for granted that"):
        assert words in text
    assert (tmp_path / "out" / "forecast.png").read_bytes()[1:4] == b"PNG"


def test_a_forecast_by_hand(tmp_path: Path, capsys) -> None:
    one = record(tmp_path / "one")
    options = {"price_per_core_hour": 2.0, "startup_seconds": 3.0, "queue_seconds": 100.0}
    free = machine(tmp_path, **options, relative_speed=2.0)
    found = json.loads(call(capsys, one, "--machine", free, "--ranks", "1,2,8", "--json"))
    # Twice as fast: 5 s for 400 samples, 0.25 s beside them, 0.5 s for 8 images; checkpoints as before.
    one, two, eight = found["modelled"]
    assert one["epoch_seconds"] == pytest.approx(5 + 0.25 + 0.5 + 0.25)
    # A node has two cores. What epochs take beside batches was measured a batch, so it halves, too.
    assert two["epoch_seconds"] == pytest.approx((5 + 0.25 + 0.5) / 2 + 0.25)
    assert two["efficiency"] == pytest.approx(6 / (2 * 3.125))
    # Four ranks share a core: batches of 13, since 400 / 32 has a rest of half a batch.
    assert eight["epoch_seconds"] == pytest.approx(50 * 4 * 0.0125 + 13 * 0.0025 * 4 + 0.0625 * 4 + 0.25)
    assert eight["batches"] == 13
    shares = {name: share for name, share in two["shares"].items() if share > 1e-9}
    assert shares == pytest.approx(
        {"compute": 2.25 / 3.125, "data": 0.25 / 3.125, "validation": 0.08, "checkpoint": 0.08, "other": 0.04}
    )
    # Ten epochs, 3 s to start and the 2 s that runs have beside their epochs.
    assert two["run_seconds"] == pytest.approx(10 * 3.125 + 3 + 2)
    assert two["core_hours"] == pytest.approx(2 * two["run_seconds"] / 3600)
    assert two["price"] == pytest.approx(2 * two["core_hours"])
    assert (two["failures"], two["daly_seconds"]) == (0, None)
    assert two["period"] == pytest.approx([1, 0.96])
    assert any("no node fails" in line for line in found["assumptions"])


def test_the_best_checkpoints_are_dalys(tmp_path: Path, capsys) -> None:
    # Epochs of 6 s with a checkpoint of 0.25 s; a failure each 72 s: Daly's interval is 5.83 s.
    failing = machine(tmp_path, relative_speed=2.0, node_mtbf_hours=0.02)
    arguments = [record(tmp_path / "one"), "--machine", failing, "--ranks", "1", "--epochs", 24]
    row = json.loads(call(capsys, *arguments, "--json"))["modelled"][0]
    assert row["daly_seconds"] == pytest.approx(
        (2 * 0.25 * 72) ** 0.5 * (1 + (0.25 / 144) ** 0.5 / 3 + 0.25 / 144 / 9) - 0.25
    )
    assert (row["daly_epochs"], row["best_epochs"]) == (1, 1)
    # 144 s of work with a failure each 72 s.
    assert row["failures"] == pytest.approx(144 / 72, rel=0.15)
    rare = machine(tmp_path, relative_speed=2.0, node_mtbf_hours=1.0)
    arguments[2] = rare
    row = json.loads(call(capsys, *arguments, "--json"))["modelled"][0]
    # Daly: 42 s, so 7 of the 5.75 s epochs; 24 epochs divide into 3 times 8 or 4 times 6.
    assert row["daly_epochs"] == 7
    assert row["best_epochs"] in (6, 8)


def test_weak_scaling_and_other_methods(tmp_path: Path, capsys) -> None:
    one, free = record(tmp_path / "one"), machine(tmp_path)
    found = json.loads(call(capsys, one, "--machine", free, "--ranks", "1,2", "--weak", "--json"))
    assert [row["batches"] for row in found["modelled"]] == [100, 100]
    assert [row["efficiency"] for row in found["modelled"]] == pytest.approx([1, 1])
    changed = ["--method", "two-level", "--set", "parallel.near_period=4", "--epochs", "2"]
    found = json.loads(call(capsys, one, "--machine", free, "--ranks", "2", *changed, "--json"))
    assert (found["parallel"]["method"], found["parallel"]["near_period"]) == ("two-level", 4)
    with pytest.raises(DhhpcError, match="--set parallel"):
        call(capsys, one, "--machine", free, "--method", "nonsense")


def test_a_slow_network_asks_for_longer_periods(tmp_path: Path, capsys) -> None:
    # 4 kB of parameters, without an optimizer's state, at 40 kB/s: 0.1 s, which is what a batch takes.
    slow = machine(tmp_path, within={"latency": 0, "bandwidth": 4e4})
    arguments = [record(tmp_path / "one"), "--machine", slow, "--ranks", "2", "--target", 0.9]
    row = json.loads(call(capsys, *arguments, "--json"))["modelled"][0]
    # Half of what is lost comes from checkpoints of 0.25 s; a period of 16 loses a sixteenth on top.
    assert row["period"][0] == 16
    assert row["period"][1] >= 0.9
    assert row["limit"].startswith("the network")
    assert row["shares"]["communication"] == pytest.approx(10 * 0.1 / row["epoch_seconds"], rel=0.02)
    hopeless = json.loads(call(capsys, *arguments[:-1], 0.999, "--json"))["modelled"][0]
    assert hopeless["period"] is None
    # Where already the first row is below, no rank count is named past which it would be.
    told = call(capsys, *arguments, "--set", "parallel.period=1")
    assert "efficiency is below 0.8 from the first row on" in told
    assert "past 2 ranks" not in told


def test_runs_validate_each_other(tmp_path: Path, capsys) -> None:
    one, two = record(tmp_path / "one"), record(tmp_path / "two", 2, sample=0.03)
    # Four ranks of a thread share two cores, so each sample takes twice as long, and 2 % more than that.
    four = record(tmp_path / "four", 4, sample=0.06 * 1.02)
    many = record(tmp_path / "threads", 2, threads=2, cores=4)
    arguments = [one, two, "--machine", machine(tmp_path)]
    for against in (four, many):
        arguments += ["--against", against]
    found = json.loads(call(capsys, *arguments, "--json"))
    (compared,) = found["comparisons"]
    assert (compared["ranks"], compared["method"], compared["period"]) == (4, "fixed", 5)
    assert compared["measured"] == pytest.approx(100 * 0.0612 + 0.5 + 0.25 + 0.25)
    # Epochs of 100 and of 50 batches have 0.5 s beside them alike. That, and images, take twice as long, too.
    assert compared["modelled"] == pytest.approx(100 * 0.06 + 2 * 0.5 + 2 * 0.125 * 2 + 0.25)
    assert found["median_error"] == pytest.approx(abs(compared["error"]))
    assert compared["shares_cores"]
    assert found["median_error_of_own_cores"] is None
    assert "no run measures ranks of 2 threads" in found["refused"][0]
    text = call(capsys, *arguments)
    assert "median error over 1 run:" in text
    assert "4 (share cores)" in text
    assert "not compared:" in text
    # Another period of two ranks is told apart.
    longer = record(tmp_path / "longer", 2, sample=0.03, method="fixed", period=10)
    assert "of those whose ranks have their cores to themselves: 0.0%" in call(
        capsys, *arguments, "--against", longer
    )


def test_what_is_no_calibration_is_refused(tmp_path: Path, capsys) -> None:
    free = machine(tmp_path)
    crowded = record(tmp_path / "crowded", 4)
    with pytest.raises(
        DhhpcError, match="4 threads share 2 cores of a node: no run measures ranks of 1 threads"
    ):
        call(capsys, crowded, "--machine", free)
    one = record(tmp_path / "one")
    found = json.loads(call(capsys, one, crowded, "--machine", free, "--ranks", "1", "--json"))
    assert found["measured"]["left_out"] == [f"{crowded}: 4 threads share 2 cores of a node"]
    other = record(tmp_path / "other")
    content = json.loads((other / "run.json").read_text())
    content["experiment"]["network"]["name"] = "resnet18"
    del content["cores"]
    (other / "run.json").write_text(json.dumps(content))
    with pytest.raises(DhhpcError, match=r"trained with another network.name than"):
        call(capsys, one, other, "--machine", free)
    with pytest.raises(DhhpcError, match=r"ran on far, and its record does not tell .* give --cores"):
        call(capsys, other, "--machine", free)
    with pytest.raises(DhhpcError, match="is calibrated on, too"):
        call(capsys, one, "--machine", free, "--against", one)
    with pytest.raises(DhhpcError, match="--weak: says nothing with --against"):
        call(capsys, one, "--machine", free, "--against", crowded, "--weak")
    with pytest.raises(DhhpcError, match="--ranks 1,x: 'x' is no number of ranks"):
        call(capsys, one, "--machine", free, "--ranks", "1,x")


def test_jitter_is_what_made_ranks_wait(tmp_path: Path) -> None:
    run = record(tmp_path / "run", 4, cores=4, method="gradient")
    content = json.loads((run / "run.json").read_text())
    random = np.random.default_rng(5)
    slowness = np.array([1.0, 1.06, 0.98, 0.96])
    history = []
    for epoch in content["history"] * 10:
        # 2500 batches of 0.1 s that deviate by a fifth; all wait for the last of each.
        steps = 0.1 * slowness * (1 + 0.2 * random.standard_normal((2500, 4)))
        waits = (steps.max(axis=1, keepdims=True) - steps).sum(axis=0)
        ranks = [
            NOTHING | {"compute": float(work), "wait": float(wait)}
            for work, wait in zip(steps.sum(axis=0), waits, strict=True)
        ]
        history.append(epoch | {"batches": 2500, "averagings": 2500, "ranks": ranks})
    content["history"] = history
    (run / "run.json").write_text(json.dumps(content))
    measured = read_measured(run, "run")
    assert step_deviation(measured) == pytest.approx(0.2, rel=0.05)
    jitter, told = jitter_of([measured])
    assert jitter.step == pytest.approx(0.2, rel=0.05)
    assert jitter.rank == pytest.approx(np.log(slowness).std(ddof=1), rel=0.05)
    # What epochs differ by is what chance leaves of 2500 steps, and nothing beside.
    assert jitter.epoch < 0.002
    assert "makes ranks wait as long as they did" in told
