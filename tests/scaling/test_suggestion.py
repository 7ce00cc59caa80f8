"""`dhhpc submit suggest` on a rehearsal written by hand: every figure of the table is worked out here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dhhpc import zoo
from dhhpc.cli.app import command_line
from dhhpc.errors import DhhpcError
from dhhpc.training import read_experiment
from tests import synthetic

GIB = 2**30
SITE = {
    "name": "clinic",
    "scheduler": "slurm",
    "launcher": "srun",
    "partitions": [
        {"name": "main", "max_nodes": 4, "max_time": "01:00:00"},
        {"name": "short", "max_nodes": 2, "max_time": "00:02:00"},
    ],
    "node": {"cores": 4, "memory_gb": 16},
}
MEASURED = {
    "host": "n1",
    "processor": "a processor",
    "cores": 4,
    "threads": 1,
    "batch_size": 4,
    "samples": 8,
    "images": 4,
    "batches": 6,
    "pace": 0.5,
    "validation_pace": 0.25,
    "epoch_seconds": 2.0,
    "once_seconds": 10.0,
    "startup_seconds": 20.0,
    "peak_bytes": 2 * GIB,
    "counted_bytes": 10**6,
    "predicted_bytes": 2 * GIB,
    "process_bytes": 2 * GIB,
    "mpi_bytes": GIB // 2,
}


@pytest.fixture
def place(discs, tmp_path, monkeypatch) -> Path:
    """A folder with an experiment of 21 samples and 6 images, ten epochs and batches of 4, its rehearsal, and
    a site. It is the current one."""
    monkeypatch.chdir(tmp_path)
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run", epochs=10)
    rehearse(tmp_path)
    (tmp_path / "site.yml").write_text(yaml.safe_dump(SITE))
    assert file.is_file()
    return tmp_path


def rehearse(folder: Path, **changes) -> None:
    document = read_experiment(folder / "e.yml").model_dump(mode="json")
    (folder / "r.json").write_text(json.dumps(MEASURED | {"experiment": document} | changes))


def suggest(*options: object) -> None:
    arguments = ["submit", "suggest", "e.yml", "--site", "site.yml", "--rehearsal", "r.json"]
    command_line()([*arguments, *map(str, options)], standalone_mode=False)


def figures(capsys, *options: object) -> dict:
    suggest("--json", *options)
    return json.loads(capsys.readouterr().out)


def refused(capsys, *options: object) -> tuple[str, str]:
    """The line on stderr, and what was printed before."""
    with pytest.raises(DhhpcError) as error:
        suggest(*options)
    assert "\n" not in str(error.value)
    return str(error.value), capsys.readouterr().out


def test_every_figure_of_a_row(place, capsys):
    found = figures(capsys, "--nodes", "2,1", "--network", "1000,1")
    one, two = found["rows"]
    assert [row["nodes"] for row in (one, two)] == [1, 2]
    # 21 samples and 6 images; start-up, files and ten epochs with what is beside their batches.
    assert one["figures"]["epoch_seconds"] == pytest.approx(21 * 0.5 + 6 * 0.25)
    assert one["figures"]["seconds"] == pytest.approx(20 + 10 + 10 * (12 + 2))
    assert one["figures"]["core_hours"] == pytest.approx(170 * 4 / 3600)
    assert one["figures"]["expected_seconds"] == pytest.approx(255)
    assert (one["figures"]["time_seconds"], one["figures"]["requeues"]) == (300, 0)
    # Two batches of four samples a rank, and five samples of which one rank has three; three images a rank.
    # Each batch sends the gradients in one bucket, and two whole numbers: each the time of one message.
    parameters = zoo.create("unet", (1, 16, 16), 1, channels=[4, 8], normalization=False).parameter_count
    averaging = 2 * 1e-3 + (4 * parameters + 16) / 1e9
    assert two["figures"]["averaging_seconds"] == pytest.approx(averaging)
    epoch = 11 * 0.5 + 3 * averaging + 3 * 0.25
    assert two["figures"]["epoch_seconds"] == pytest.approx(epoch)
    assert two["figures"]["seconds"] == pytest.approx(20 + 10 + 10 * (epoch + 2))
    # With the margin 2.3 GiB and 2.9 GiB, and some hundredths for the network, in quarters.
    assert (one["figures"]["memory_gb"], two["figures"]["memory_gb"]) == (2.5, 3.0)
    assert one["figures"]["first_rank_bytes"] - 2 * GIB < 2e6
    assert two["figures"]["rank_bytes"] - 2.5 * GIB < 2e6
    assert found["recommended"] == 0
    command = (
        "dhhpc submit train e.yml --site site.yml --nodes 1 --ranks-per-node 1 --memory 2.5 --time 00:05:00"
    )
    assert one["command"] == command.split()
    packed = figures(capsys, "--nodes", 1, "--ranks-per-node", 2)["rows"][0]["figures"]
    assert packed["memory_gb"] == 6.0  # 1.15 times two of 2.5 GiB, and some


def test_a_deadline_takes_more_nodes_or_is_refused(place, capsys):
    # One node takes 255 s with the margin, two less than 150 s, and four of them more core-hours than two.
    found = figures(capsys, "--deadline", "3m")
    assert found["deadline"] == 180
    assert [row["nodes"] for row in found["rows"]] == [1, 2, 4]
    assert found["recommended"] == 1
    hours = [row["figures"]["core_hours"] for row in found["rows"]]
    assert hours == sorted(hours)
    suggest("--deadline", "00:03:00", "--nodes", "1,2")
    shown = capsys.readouterr().out
    assert "after the deadline" in shown
    assert "dhhpc submit command --site site.yml --time 00:30:00 -- kernels build" in shown
    assert "more ranks have larger batches" in shown
    assert "=> the fewest core-hours of all that fit and meet the deadline of 00:03:00" in shown
    assert shown.rstrip().endswith("--nodes 2 --ranks-per-node 1 --memory 3 --time 00:05:00")
    line, shown = refused(capsys, "--deadline", 1, "--nodes", "1,2")
    assert line.startswith("--deadline 00:01:00: none meets it, and the fastest is 2 nodes with 00:02:")
    assert "after the deadline" in shown
    for wrong in ("soon", "0h", "8 hours"):
        assert refused(capsys, "--deadline", wrong)[0].startswith(f"--deadline {wrong!r} is no time")


def test_what_no_job_can_hold_is_queued_again(place, capsys):
    """Jobs of 120 s: told 30 s before the end, after a start-up of 20 s with the margin 30 s, each trains for
    60 s; the 150 s beside the first start-up are 225 s with the margin: four jobs."""
    found = figures(capsys, "--partition", "short", "--nodes", 1)["rows"][0]
    assert (found["figures"]["time_seconds"], found["figures"]["requeues"]) == (120, 3)
    assert found["figures"]["seconds"] == pytest.approx(170 + 3 * 20)
    assert found["figures"]["core_hours"] == pytest.approx(230 * 4 / 3600)
    assert found["command"][-4:] == ["--time", "00:02:00", "--requeue", "3"]
    assert found["command"][6:8] == ["--partition", "short"]
    suggest("--partition", "short", "--nodes", 1)
    shown = capsys.readouterr().out
    assert "00:02:00 x 4" in shown
    assert "queued again 3 times" in shown
    # On two nodes 92.5 s beside the start-up are left, and 138.75 s of them with the margin: three jobs.
    both = figures(capsys, "--partition", "short", "--nodes", "1,2")
    assert both["rows"][1]["figures"]["requeues"] == 2
    assert both["recommended"] == 0
    # Start-up alone with the margin is longer than what is left of a job.
    rehearse(place, startup_seconds=60.0)
    line, _ = refused(capsys, "--partition", "short", "--nodes", 1)
    assert line.startswith("nothing fits: partition short: a job of at most 00:02:00 ends before")


def test_limits_of_the_site_and_of_the_experiment_stand_in_the_table(place, capsys):
    divided = ("--ranks-per-node", 2, "--nodes", "1,2,3,8")
    synthetic.write_experiment(
        place / "e.yml",
        read_experiment(place / "e.yml").data.shards,
        place / "run",
        epochs=10,
        parallel={"method": "gradient", "batch": "divide"},
    )
    # A rehearsal is of one rank, whatever ranks do with each other.
    found = figures(capsys, *divided)
    problems = [row["problem"] for row in found["rows"]]
    assert problems[:2] == [None, None]
    assert "batch_size 4 with parallel.batch `divide` cannot be shared evenly by 6 ranks" in problems[2]
    assert "cannot be shared evenly by 16 ranks" in problems[3]
    assert [row["figures"] and row["figures"]["batch"] for row in found["rows"]] == [2, 1, None, None]
    suggest(*divided)
    shown = capsys.readouterr().out
    assert "3 nodes: batch_size 4" in shown
    assert "larger batches" not in shown
    assert "no, see below" in shown
    found = figures(capsys, "--nodes", "2,4", "--set", "node.memory_gb=3", "--partition", "short")
    assert [row["problem"] for row in found["rows"]] == [
        None,
        "--nodes 4: partition short of site clinic gives a job at most 2; use --nodes 2 or --partition main",
    ]
    assert found["rows"][0]["command"][6:8] == ["--set", "node.memory_gb=3"]
    line, shown = refused(capsys, "--set", "node.memory_gb=2", "--nodes", "1,2")
    assert line.startswith("nothing fits: --memory 2.5: a node of partition main of site clinic has 2 GiB")
    assert "1 node: --memory 2.5" in shown
    assert "2 nodes: --memory 3" in shown


def test_what_cannot_be_suggested_is_refused_in_a_line(place, capsys):
    for options, line in (
        (("--nodes", "0"), "--nodes 0: give whole numbers above 0"),
        (("--nodes", "1,,2"), "--nodes 1,,2: give whole numbers above 0"),
        (("--network", "1"), "--network 1: give the microseconds of a message"),
        (("--network", "1,nan"), "--network 1,nan: give the microseconds of a message"),
        (("--ranks-per-node", 5), "--ranks-per-node 5: a node of partition main of site clinic has 4 cores"),
        (("--partition", "mian"), "--partition mian: site clinic has no such partition; did you mean main?"),
        (("--site", "local"), "--site local: has no partitions, so no limits to suggest within; start"),
        (("--site", "slurm-mpich", "--set", "partitions=[]"), "--site slurm-mpich: has no partitions"),
        (("--rehearsal", "no.json"), "no.json: no such file; `dhhpc scale rehearse EXPERIMENT --output"),
        (
            ("--nodes", 40, "--ranks-per-node", 1),
            "discs0: 21 training samples for 40 ranks; start at most 21",
        ),
    ):
        assert line in refused(capsys, *options)[0]
    rehearse(place, pace=0)
    assert "r.json: no rehearsal (pace: " in refused(capsys)[0]
    rehearse(place, experiment=MEASURED)
    assert "r.json: is of an experiment with another" in refused(capsys)[0]
    text = (place / "e.yml").read_text()
    (place / "e.yml").write_text(text.replace("epochs: 10", "epoch: 10"))
    assert "e.yml:" in refused(capsys)[0]
    (place / "e.yml").write_text(text + "parallel: {method: spatial}\n")
    assert "with parallel.method `spatial` all ranks share each image" in refused(capsys)[0]
    (place / "e.yml").write_text(text.replace(str(read_experiment(place / "e.yml").data.shards), "nowhere"))
    assert "nowhere" in refused(capsys)[0]


def test_help_of_the_command_line_loads_nothing_heavy():
    code = (
        "import sys; from dhhpc.cli.app import command_line; command_line();"
        "print([name for name in ('numpy', 'numba', 'pydantic', 'rich.table') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
