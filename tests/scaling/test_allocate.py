"""`dhhpc scale allocate` on the record of a real run, and on records of larger ones written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from dhhpc.cli.app import command_line
from dhhpc.errors import DhhpcError
from tests import synthetic


@pytest.fixture(scope="module")
def run(discs, tmp_path_factory) -> Path:
    """Two ranks, three epochs of 21 samples, batches of 4 samples a rank."""
    folder = tmp_path_factory.mktemp("allocate")
    parallel = {"method": "fixed", "period": 2, "split": "measured"}
    file = synthetic.write_experiment(folder / "e.yml", discs, folder / "run", epochs=3, parallel=parallel)
    trained = synthetic.run_dhhpc("train", file, "--ranks", 2)
    assert trained.returncode == 0, trained.stderr
    return folder / "run"


def call(capsys, *arguments: object) -> str:
    """What the command prints."""
    command_line()(["scale", "allocate", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def changed(run: Path, folder: Path, change) -> Path:
    """A run folder with the record of `run`, changed."""
    content = json.loads((run / "run.json").read_text())
    change(content)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_paces_and_times_are_those_of_the_record(run, capsys):
    found = json.loads(call(capsys, run, "--json"))
    record = json.loads((run / "run.json").read_text())
    # The first epoch is not like others.
    history = record["history"][1:]
    paces = []
    for rank in range(2):
        known = [epoch["paces"][rank]["seconds"] for epoch in history if epoch["paces"][rank]["samples"]]
        # One that was so slow in the calibration that it took nothing has no other pace.
        paces.append(median(known or [1 / epoch["weights"][rank] for epoch in history]))
    of_kinds = {rank: kind for kind in found["kinds"] for rank in kind["measured_ranks"]}
    assert sorted(of_kinds) == [f"{run}:0", f"{run}:1"]
    for kind in found["kinds"]:
        mine = [paces[int(rank.rpartition(":")[2])] for rank in kind["measured_ranks"]]
        assert kind["pace"] == pytest.approx(median(mine))
        assert kind["available"] == len(mine)
        assert (kind["cores"], kind["together"], kind["busy_watts"]) == (1, 1, None)
    both = next(choice for choice in found["choices"] if sum(choice["ranks"]) == 2)
    assert sum(both["split"]) == 8
    assert sum(both["samples"]) == 21
    assert both["joules"] is None
    assert both["core_hours"] == pytest.approx(2 * both["seconds"] / 3600)
    assert 0 < both["efficiency"] <= 1
    # Two whole batches and one of 5 samples, averaged in what it took the rank that came last.
    averaging = median(min(rank["communication"] for rank in epoch["ranks"]) / 3 for epoch in history)
    assert found["work"]["averaging_seconds"]["2"] == pytest.approx(averaging)
    once = record["kpis"]["totm"] - sum(
        epoch["seconds"] + epoch["validation_seconds"] + epoch["checkpoint_seconds"]
        for epoch in record["history"]
    )
    assert found["work"]["once_seconds"] == pytest.approx(once)
    assert both["seconds"] == pytest.approx(
        once + 3 * (both["epoch_seconds"] + found["work"]["epoch_seconds"])
    )
    more = json.loads(call(capsys, run, "--epochs", 30, "--json"))["choices"]
    for choice, longer in zip(found["choices"], more, strict=True):
        assert longer["seconds"] - once == pytest.approx(10 * (choice["seconds"] - once))


def test_weights_for_other_ranks_or_none_are_refused(run, tmp_path):
    other = ("train", str(run.parent / "e.yml"), "--output", str(tmp_path / "other"), "--set")
    with pytest.raises(
        DhhpcError, match=r"parallel\.split: has weights for 3 ranks, but there are 1; start 3"
    ):
        command_line()([*other, "parallel.split=[1, 1, 1]"], standalone_mode=False)
    for value in ("[1, 0]", "[1, .inf]", "[]", "fair"):
        with pytest.raises(DhhpcError, match="choose `equal`, `measured`, or a list of a weight above 0"):
            command_line()([*other, f"parallel.split={value}"], standalone_mode=False)


def on_two_hosts(content) -> None:
    """Four ranks of 2 cores: 0.1 s for a sample on the first host, and 0.2 and 0.21 s on the other."""
    content["ranks"], content["threads_of_ranks"] = 4, [2] * 4
    content["hosts"], content["processes"] = ["n1", "n2"], ["n1:1", "n1:2", "n2:1", "n2:2"]
    content["kpis"]["totm"] = 100.0
    spent = {"data": 1.0, "compute": 1.0, "communication": 0.06, "wait": 0.0, "validation": 0.4}
    for epoch in content["history"]:
        epoch |= {"seconds": 2.5, "validation_seconds": 0.5, "checkpoint_seconds": 0.25, "batches": 2}
        # Of six images of validation, two ranks have two and two have one.
        epoch["ranks"] = [spent | {"communication": 0.06 + 0.1 * rank} for rank in range(4)]
        epoch["paces"] = [{"samples": 5, "seconds": pace} for pace in (0.1, 0.1, 0.2, 0.21)]


SITE = """\
name: two
scheduler: slurm
launcher: srun
partitions: [{name: main, max_nodes: 9, max_time: "60"}]
node: {cores: 8, watts: {busy: 200, idle: 80}}
"""


def test_unlike_ranks_of_one_run_are_kinds_and_come_by_the_node(run, tmp_path, capsys):
    folder = changed(run, tmp_path / "mixed", on_two_hosts)
    (tmp_path / "two.yml").write_text(SITE)
    arguments = (folder, "--site", tmp_path / "two.yml")
    found = json.loads(call(capsys, *arguments, "--available", "mixed-2=3", "--json"))
    fast, slow = found["kinds"]
    assert (fast["name"], fast["pace"], fast["together"], fast["available"]) == ("mixed-1", 0.1, 2, 1)
    assert (slow["name"], slow["pace"], slow["together"], slow["available"]) == (
        "mixed-2",
        pytest.approx(0.205),
        2,
        3,
    )
    assert (fast["validation_pace"], slow["validation_pace"]) == (0.2, 0.4)
    # A node is had for its two ranks alone, whatever cores they leave idle.
    assert (fast["busy_watts"], fast["idle_watts"]) == (100, 40)
    assert found["work"]["averaging_seconds"]["4"] == pytest.approx(0.03)
    # 0.44 s are neither data, computing nor meeting, and 0.25 s a checkpoint.
    assert found["work"]["epoch_seconds"] == pytest.approx(0.44 + 0.25)
    assert found["work"]["once_seconds"] == pytest.approx(100 - 3 * 3.25)
    assert {tuple(choice["ranks"]) for choice in found["choices"]} == {
        (fast, slow) for fast in (0, 2) for slow in (0, 2, 4, 6) if fast + slow
    }
    by_rank = json.loads(call(capsys, *arguments, "--by", "rank", "--json"))
    assert [(kind["together"], kind["available"]) for kind in by_rank["kinds"]] == [(1, 2), (1, 2)]
    assert by_rank["kinds"][0]["busy_watts"] == 200 * 2 / 8
    text = call(capsys, *arguments, "--objective", "energy", "--deadline", "5:00")
    assert "=> the least energy within 00:05:00: 2 ranks of mixed-1; parallel.split: equal" in text
    assert "averaging over 4 ranks: 30 ms for each batch" in text
    assert "the batches of an epoch of" in text


def test_runs_on_two_kinds_of_nodes_share_a_batch(run, tmp_path, capsys):
    fast, slow = (
        changed(run, tmp_path / name, lambda content, pace=pace: on_one_host(content, pace))
        for name, pace in (("fast", 0.1), ("slow", 0.2))
    )
    arguments = (f"gpu={fast}", f"cpu={slow}", "--epochs", 60)
    # In 0.6 s the ranks can take 6, 6, 3 and 3 samples, in 0.5 s only 14 of the 16.
    for watts, split in (
        ((), [6, 6, 2, 2]),
        (("--watts", "gpu=300:100", "--watts", "60:20"), [5, 5, 3, 3]),  # 20 J a sample against 8 J
    ):
        found = json.loads(call(capsys, *arguments, *watts, "--json"))
        quickest = next(each for each in found["choices"] if each["ranks"] == [2, 2] and each["fastest"])
        assert quickest["split"] == split
    assert [(kind["name"], kind["busy_watts"]) for kind in found["kinds"]] == [("gpu", 300), ("cpu", 60)]
    text = call(capsys, *arguments)
    assert "energy: unknown, as the watts of gpu, cpu are; give --watts or --site" in text
    assert (
        "=> the least time: 2 ranks of gpu, 2 ranks of cpu, in this order; parallel.split: measured" in text
    )


def on_one_host(content, pace: float) -> None:
    content["hosts"], content["processes"] = ["n1"], ["n1:1", "n1:2"]
    for epoch in content["history"]:
        for rank in epoch["paces"]:
            rank["seconds"] = pace


def test_a_rank_without_samples_is_as_fast_as_its_calibration(run, tmp_path, capsys):
    def idle(content) -> None:
        for epoch in content["history"]:
            epoch["weights"] = [200.0, 4.0]
            epoch["paces"] = [{"samples": 21, "seconds": 0.004}, {"samples": 0, "seconds": None}]

    folder = changed(run, tmp_path / "uneven", idle)
    found = json.loads(call(capsys, folder, "--json"))
    assert [kind["pace"] for kind in found["kinds"]] == [0.004, 0.25]
    assert f"rank 1 of {folder} took no sample: its pace is that of the calibration" in call(capsys, folder)

    def equal(content) -> None:
        idle(content)
        content["experiment"]["parallel"]["split"] = "equal"

    with pytest.raises(
        DhhpcError, match=r"run\.json: rank 1 took no sample, so its pace is not measured; train"
    ):
        call(capsys, changed(run, tmp_path / "equal", equal))


def without_paces(content) -> None:
    for epoch in content["history"]:
        del epoch["paces"]


def shared_images(content) -> None:
    content["experiment"]["parallel"]["method"] = "spatial"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            without_paces,
            r"lacks 'paces', so no measured pace; train again .* with `parallel\.split: measured`",
        ),
        (lambda content: content["history"].clear(), "no whole epoch, so no measured pace; train an epoch"),
        (shared_images, "with .* all ranks share each image, .*; measure with another method"),
    ],
)
def test_records_without_paces_say_how_to_get_them(run, tmp_path, capsys, change, words):
    folder = changed(run, tmp_path / "other", change)
    with pytest.raises(DhhpcError, match=rf"{folder / 'run.json'}: {words}"):
        call(capsys, folder)


def another_network(content) -> None:
    content["experiment"]["network"]["channels"] = [8]


def test_wrong_options_are_told_in_one_line(run, tmp_path, capsys):
    other = changed(run, tmp_path / "other", another_network)
    for arguments, words in (
        (
            (f"cpu={run}", f"gpu={other}"),
            "was trained with another network.channels than .*; compare runs of one",
        ),
        (
            (f"cpu={run}", "--available", "cup=3"),
            "--available cup=3: no ranks of that name; did you mean cpu",
        ),
        ((run, "--available", "0"), "--available 0: give a whole number above 0"),
        ((run, "--watts", "40:95"), "--watts 40:95: idle 95 is more than busy 40"),
        ((run, "--watts", "40"), "--watts 40: .* give BUSY:IDLE"),
        ((run, "--site", "local"), "--site local: its node has no watts; add"),
        ((run, "--objective", "cost"), "--objective cost: choose time, core-hours, energy"),
        (
            (run, "--objective", "energy"),
            "--objective energy: the watts of the nodes are unknown; give --watts",
        ),
        ((run, "--deadline", "soon"), "--deadline 'soon' is no time"),
        (
            (run, "--core-hours", "1e-9"),
            "no choice keeps to the limits: the fastest takes .*; raise --deadline",
        ),
    ):
        with pytest.raises(DhhpcError, match=words):
            call(capsys, *arguments)
