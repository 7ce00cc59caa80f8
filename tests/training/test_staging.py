"""Training and evaluation on copies of the shards: the same bits, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dhhpc import zoo
from dhhpc.cli.app import main
from dhhpc.data.folds import Fold
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json
from dhhpc.mpi import World
from dhhpc.training import Experiment, Series, read_run, staged, staged_for_training, train, train_series
from dhhpc.training.experiment import Data
from dhhpc.training.stopping import Stopped, StopRequest
from tests import synthetic
from tests.training.processes import final_state, start, wait_for_epochs, wait_for_the_end_of
from tests.training.runs import assert_identical, parameters

EVALUATES = """
import sys, time
from pathlib import Path
from dhhpc.mpi import World
from dhhpc.training import staged
with staged(Path(sys.argv[1]), ("test",), sys.argv[2], World(), lambda *event: None):
    print("ready", flush=True)
    time.sleep(60)
"""


def ignore(event, values):
    pass


def alike(world, action) -> str:
    """The line with which `action` fails on all ranks."""
    with pytest.raises(DhhpcError) as caught:
        action()
    (line,) = set(world.allgather_object(str(caught.value)))
    assert "\n" not in line
    return line


@pytest.mark.mpi
def test_ranks_stage_together_and_train_to_the_same_bits(world, shared, shards):
    """A run, and the folds of a series, of which each reads both splits."""
    (disk := shared / "disk").mkdir(exist_ok=True)
    world.barrier()

    def trained(name, place, folds=None):
        changes = {"epochs": 1, "optimizer": {"name": "adam"}, "augmentations": [{"name": "flip"}]}
        document = synthetic.experiment_document(shards, shared / name, **changes)
        experiment = Experiment.model_validate(document)
        with staged_for_training(experiment, place, world, zoo.create, False, ignore) as (staging, stop):
            if folds is None:
                return train(experiment, world, zoo.create, stop=stop, staging=staging)
            series = Series(experiment, None, folds)
            assert train_series(series, world, zoo.create, stop=stop, staging=staging) == []
        return read_run(shared / name / "fold-2")

    for name, folds in (("one", None), ("series", 2)):
        here, there = trained(name, None, folds), trained(f"{name}-staged", str(disk), folds)
        assert_identical(parameters(there), parameters(here))
        if world.rank == 0:
            assert final_state(there.folder) == final_state(here.folder)
        files = [shards / f"{split}-00000.h5" for split in ("training", "validation")]
        (node,) = there.content["staging"]["nodes"]
        assert node["bytes"] == node["copied"] == sum(path.stat().st_size for path in files)
        assert (node["host"], Path(node["folder"]).parent, node["seconds"] > 0) == (world.host, disk, True)
        assert there.content["staging"]["splits"] == ["training", "validation"]
        assert there.content["experiment"]["data"] == here.content["experiment"]["data"]
        assert here.content["experiment"]["data"]["shards"] == str(shards)
        assert here.content["staging"] is None
        assert list(disk.iterdir()) == []
        world.barrier()


@pytest.mark.mpi
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system to fill")
def test_a_failure_on_one_rank_ends_all_and_leaves_nothing(world, shared, shards):
    (disk := shared / "disk").mkdir(exist_ok=True)
    copied = shared / "damaged"
    splits = ("training", "validation")

    def stage(source=shards, place=disk):
        with staged(source, splits, str(place), world, ignore, keep=True):
            raise AssertionError("staged after all")

    def by_rank_0(action) -> None:
        if world.rank == 0:
            action()
        world.barrier()

    assert alike(world, lambda: stage(place=shared / "no")).startswith(f"--stage {shared}/no: no such folder")
    by_rank_0(lambda: shutil.copytree(shards, copied))
    by_rank_0(lambda: (copied / "validation-00000.h5").write_bytes(b"\0" * read_size(copied, "validation")))
    line = alike(world, lambda: stage(copied))
    assert line.startswith(f"{copied}/validation-00000.h5: its SHA-256 is not the one in index.json")
    by_rank_0(lambda: os.truncate(copied / "training-00000.h5", 1000))
    line = alike(world, lambda: stage(copied))
    assert line.startswith(f"{copied}/training-00000.h5: holds 1000 bytes where index.json says ")
    world.barrier()
    assert list(disk.iterdir()) == []
    world.barrier()
    with (
        pytest.raises(Stopped),
        staged(shards, splits, disk, world, ignore, stop=StopRequest(world.rank == 1)),
    ):
        raise AssertionError("staged after all")
    world.barrier()
    assert list(disk.iterdir()) == []
    world.barrier()
    # A disk with room for the bytes, and not for one more file: the copy's folder, its lock, index.json and a
    # shard are there when the other rank begins to write.
    options = "size=8m,nr_inodes=5"
    by_rank_0(lambda: subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True))
    try:
        line = alike(world, stage)
        assert f"-00000.h5: cannot be written on {world.host} (No space left on device); free some" in line
        world.barrier()
        assert list(disk.iterdir()) == []
    finally:
        world.barrier()
        by_rank_0(lambda: subprocess.run(["umount", disk], check=True))


def read_size(folder: Path, split: str) -> int:
    return (folder / f"{split}-00000.h5").stat().st_size


def test_jobs_that_stage_the_same_at_once_copy_each_shard_once(discs, tmp_path):
    """Eight that come and go: no shard is copied while another job has it there, or taken from it."""
    together = threading.Barrier(8, timeout=30)
    copied, problems = [], []

    def job() -> None:
        try:
            for stays in (True, False, False):
                splits = ("training", "test")
                with staged(discs, splits, str(tmp_path), World(), ignore, stop=StopRequest()) as staging:
                    for name in ("index.json", "training-00000.h5", "test-00000.h5"):
                        assert (staging.folder / name).read_bytes() == (discs / name).read_bytes()
                    if stays:
                        copied.append(staging.nodes[0]["copied"])
                        together.wait()
                together.wait()
        except BaseException as error:
            problems.append(error)
            together.abort()

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(copied) == [0] * 7 + [read_size(discs, "training") + read_size(discs, "test")]
    assert list(tmp_path.iterdir()) == []


def test_a_fold_is_read_from_the_splits_that_hold_it(discs, tmp_path):
    data = Data(shards=discs, fold=Fold(part=1, of=3))
    for split, stored in (("validation", ("training", "validation")), ("test", ("test",))):
        assert data.stored_splits(split) == stored
        with staged(discs, stored, str(tmp_path), World(), ignore) as copy:
            assert len(list(copy.folder.glob("*.h5"))) == len(stored)
            count = data.open().count(split)
            found, expected = data.open(copy).read(split, range(count)), data.open().read(split, range(count))
        assert found[0].tobytes() == expected[0].tobytes()


def test_kills_and_signals(discs, tmp_path):
    """What a killed job has left is used by the next; one that is told to stop leaves a checkpoint and no
    copy, and an evaluation that is ended leaves none either."""
    (disk := tmp_path / "disk").mkdir()
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, tmp_path / "run", epochs=4000)
    command = ("train", file, "--stage", disk)
    process = start(*command)
    wait_for_epochs(tmp_path / "run", 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_the_end_of(tmp_path / "run")
    (copy,) = disk.iterdir()
    assert {path.name for path in copy.iterdir()} >= {"index.json", "training-00000.h5"}
    epochs = (tmp_path / "run" / "events.jsonl").read_text().count('"event": "epoch"')
    process = start(*command, "--resume")
    wait_for_epochs(tmp_path / "run", epochs + 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert f"staged shards in {copy}: copied 0.0 MB on 1 node" in errors
    record = read_json(tmp_path / "run" / "run.json")
    assert (record["status"], record["staging"]["nodes"][0]["copied"]) == ("stopped", 0)
    assert list(disk.iterdir()) == []
    process = subprocess.Popen([sys.executable, "-c", EVALUATES, discs, disk], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    assert len(list(disk.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert list(disk.iterdir()) == []


def test_the_commands(discs, tmp_path, monkeypatch, capsys):
    (disk := tmp_path / "disk").mkdir()
    run = tmp_path / "run"
    file = synthetic.write_experiment(tmp_path / "e.yml", discs, run)

    def dhhpc(*arguments: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["dhhpc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr()

    def refused(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["dhhpc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--stage: names no folder (is a variable empty?)" in refused("train", file, "--stage", "")
    assert "--keep-staged: nothing is staged" in refused("train", file, "--keep-staged")
    assert "no such folder on" in refused("train", file, "--stage", tmp_path / "no")
    assert not run.exists()
    dhhpc("train", file, "--stage", disk, "--keep-staged")
    (copy,) = disk.iterdir()
    assert "holds an earlier run" in refused("train", file, "--stage", disk)
    expected = json.loads(dhhpc("evaluate", run, "--json").out)
    for more in ((), ("--shards", discs)):
        output, told = dhhpc("evaluate", run, "--json", "--stage", disk, *more)
        assert json.loads(output) == expected
        assert f"staged shards in {copy}: copied " in told
    assert read_json(run / "metrics.json")["test"] == expected
    assert sorted(path.name for path in copy.glob("*.h5")) == [
        "test-00000.h5",
        "training-00000.h5",
        "validation-00000.h5",
    ]
