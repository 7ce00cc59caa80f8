"""Checkpoints of several ranks: what they share, what each has of its own, and a failure of one of them."""

import hashlib
import json
import os
import signal
import time

import numpy as np
import pytest

from dhhpc import zoo
from dhhpc.errors import DhhpcError
from dhhpc.mpi import watching
from dhhpc.training import Experiment, Stopped, train
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder
from dhhpc.training.checkpoint_writer import CheckpointWriter
from dhhpc.training.resumption import checkpoint_state
from dhhpc.training.stopping import stopping_on_signals
from dhhpc.training.trainer import Trainer
from tests import synthetic
from tests.training.runs import assert_identical, parameters

pytestmark = pytest.mark.mpi

METHODS = {
    "gradient": {"method": "gradient"},
    "fixed": {"method": "fixed", "period": 4},
    "fixed, own optimizers": {"method": "fixed", "period": 4, "optimizer_state": "keep"},
    "local SGD": {"method": "local-sgd", "period": 4, "switch_epoch": 0},
    "block momentum": {"method": "block-momentum", "period": 4},
    "elastic": {"method": "elastic", "period": 4},
    "DiLoCo": {"method": "diloco", "period": 4},
    "two levels": {"method": "two-level", "near_period": 1, "period": 4, "ranks_per_group": 1},
    "spatial": {"method": "spatial"},
}


class SlowFolder(CheckpointFolder):
    """On a disk that takes 3 s for a part of the last rank."""

    def write_part(self, checkpoint, rank, content, went_on):
        for _ in range(30 * (rank == checkpoint.ranks - 1)):
            time.sleep(0.1)
            went_on()
        return super().write_part(checkpoint, rank, content, went_on)


def experiment(shards, output, **changes):
    changes = {"network": {"name": "unet", "channels": [4, 8]}, "optimizer": {"name": "adam"}} | changes
    changes |= {"checkpoint": {"shard_megabytes": 0.001, **changes.get("checkpoint", {})}}
    return Experiment.model_validate(synthetic.experiment_document(shards, output, **changes))


def digest(arrays):
    content = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
    return hashlib.sha256(b"".join(content)).hexdigest()


@pytest.mark.parametrize("name", METHODS)
def test_what_ranks_agree_upon_is_the_same_on_all_and_is_what_their_shards_hold(world, shared, shards, name):
    """Stopped by a signal in the second epoch, between two meetings where the method lets it."""
    data = {"shards": str(shards), "patch": {"size": [8, 8], "per_image": 10}}
    chosen = experiment(shards, shared / "run", parallel=METHODS[name], data=data)
    trainer = Trainer(chosen, world, zoo.create)

    def stop(event, values):
        if event == "batch" and (values["epoch"], values["batch"]) == (1, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.listen = stop
    with stopping_on_signals(trainer.meeting), pytest.raises(Stopped):
        trainer.run(resume=False)
    agreed, own, agreement = checkpoint_state(trainer.model, trainer.method)
    with agreement:
        agreed_digests = world.allgather_object(digest(agreed))
    assert len(set(agreed_digests)) == 1
    own_digests = world.allgather_object(digest(own))
    if world.rank == 0:
        newest = max((shared / "run" / "checkpoints").glob("*.json"))
        told = json.loads(newest.read_text())
        assert told["epoch"] == 1
        assert [part["rank"] for part in told["parts"]] == list(range(world.size))
        contents = [
            (newest.parent / f"{newest.stem}-rank-{rank:05d}.part").read_bytes() for rank in range(world.size)
        ]
        cut = [part["stop"] - part["start"] for part in told["parts"]]
        assert max(cut) - min(cut) <= 8
        shared_bytes = b"".join(content[:size] for content, size in zip(contents, cut, strict=True))
        assert hashlib.sha256(shared_bytes).hexdigest() == agreed_digests[0]
        own_bytes = [content[size:] for content, size in zip(contents, cut, strict=True)]
        assert [hashlib.sha256(content).hexdigest() for content in own_bytes] == own_digests


def test_the_same_parameters_whether_training_waits_or_not_and_small_states_are_one_file(
    world, shared, shards
):
    waiting = {"asynchronous": False, "shard_megabytes": 8, "select": "best"}
    one = train(experiment(shards, shared / "one", checkpoint={"select": "best"}), world, zoo.create)
    two = train(experiment(shards, shared / "two", checkpoint=waiting), world, zoo.create)
    assert_identical(parameters(one), parameters(two))
    (whole,), parts = (
        [path.read_bytes() for path in sorted((record.folder / "checkpoints").glob("epoch-00002-*.part"))]
        for record in (two, one)
    )
    assert len(parts) == world.size
    assert b"".join(parts) == whole


def test_a_rank_that_cannot_write_stops_all_with_one_line_and_the_checkpoint_before_is_gone_on_from(
    world, shared, shards
):
    """In the background, and by a folder in the place of what the last rank writes of the second epoch."""
    chosen = experiment(shards, shared / "run", parallel=METHODS["DiLoCo"], epochs=4)
    name = f"epoch-00002-sample-000000000-rank-{world.size - 1:05d}.part"
    in_the_way = shared / "run" / "checkpoints" / name

    def block(event, values):
        if event == "epoch" and values["epoch"] == 0:
            in_the_way.mkdir(parents=True)

    with pytest.raises(DhhpcError, match=r"cannot be written \(") as caught:
        train(chosen, world, zoo.create, listen=block)
    assert str(caught.value).startswith(f"{in_the_way}: ")
    assert len(set(world.allgather_object(str(caught.value)))) == 1
    if world.rank == 0:
        assert [path.stem for path in CheckpointFolder(in_the_way.parent).descriptions()] == [
            "epoch-00001-sample-000000000"
        ]
        in_the_way.rmdir()
    world.barrier()
    resumed = train(chosen, world, zoo.create, resume=True)
    whole = train(chosen.model_copy(update={"output": shared / "whole"}), world, zoo.create)
    assert_identical(parameters(resumed), parameters(whole))


def test_a_damaged_part_of_any_rank_gives_way_to_the_checkpoint_before(world, shared, shards):
    chosen = experiment(shards, shared / "run", parallel=METHODS["gradient"], epochs=2)
    train(chosen, world, zoo.create)
    part = shared / "run" / "checkpoints" / f"epoch-00002-sample-000000000-rank-{world.size - 1:05d}.part"
    if world.rank == 0:
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(content)
    world.barrier()
    heard = []
    longer = chosen.model_copy(update={"epochs": 3})
    resumed = train(longer, world, zoo.create, resume=True, listen=lambda *told: heard.append(told))
    if world.rank == 0:
        (warning,) = [values["message"] for event, values in heard if event == "warning"]
        assert warning.startswith(f"{part}: the checkpoint is damaged (its SHA-256 has changed); going on")
    whole = train(longer.model_copy(update={"output": shared / "whole"}), world, zoo.create)
    assert_identical(parameters(resumed), parameters(whole))


def test_a_disk_slower_than_the_watch_is_no_hang(world, shared):
    """The last rank shows that its thread gets on; the others wait for it meanwhile."""
    folder, found = SlowFolder(shared / "checkpoints"), []
    writer = CheckpointWriter(folder, world, 1, lambda line: None, lambda *values: None)
    row = {"a": np.arange(1000, dtype=np.float32)}
    with watching(world, 2.0, found.append):
        writer.begin(Checkpoint(1, 0, world.size), row, {"b": np.full(5, world.rank, np.int16)})
        writer.finish()
    assert not found
    (path,) = CheckpointFolder(folder.folder).descriptions()
    checkpoint = folder.load(path)
    assert folder.state(checkpoint)["a"].tolist() == row["a"].tolist()
    assert [folder.own(checkpoint, part)["b"].tolist() for part in checkpoint.parts] == [
        [rank] * 5 for rank in range(world.size)
    ]
