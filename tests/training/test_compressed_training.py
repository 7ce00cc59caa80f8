"""Runs whose ranks send in compressed form: what they learn, what they send, and how they go on."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dhhpc import zoo
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, connect
from dhhpc.training import Experiment, Stopped, read_experiment, read_run, train
from dhhpc.training.averaging import UNSENT_PARAMETERS
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder, Part
from dhhpc.training.layout import Layout
from dhhpc.training.resumption import load
from dhhpc.training.trainer import Trainer
from tests import synthetic
from tests.training.runs import assert_identical, parameters, run

HALVES = {"method": "bf16"}
FEW = {"method": "top-k", "ratio": 0.1}
METHODS = {
    "gradient, fp16": {"method": "gradient", "compression": {"method": "fp16"}, "bucket_megabytes": 0.002},
    "gradient, top-k": {"method": "gradient", "compression": FEW, "bucket_megabytes": 0.002},
    "fixed, top-k": {"method": "fixed", "period": 2, "compression": FEW},
    "elastic, top-k": {"method": "elastic", "period": 2, "compression": FEW},
    "block momentum, bf16": {"method": "block-momentum", "period": 2, "compression": HALVES},
    "DiLoCo, top-k": {"method": "diloco", "period": 4, "compression": FEW},
    "local SGD, top-k": {"method": "local-sgd", "period": 2, "switch_epoch": 2, "compression": FEW},
}
# Batch normalisation, whose statistics are not compressed, and momentum.
SMALL = {
    "network": {"name": "unet", "channels": [4, 8]},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.5},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of all ranks, with shards: 19 training images, so that the last batch is uneven."""
    world = connect()
    made = Path(world.broadcast_object(tmp_path_factory.mktemp("ranks") if world.rank == 0 else None))
    if world.rank == 0:
        synthetic.write_discs(made / "shards", {"training": 19, "validation": 5})
    world.barrier()
    return made


@pytest.fixture(scope="module")
def uncompressed(folder) -> dict[str, float]:
    """The validation loss at the end, by method."""
    world, losses = connect(), {}
    for name in sorted({name.partition(",")[0] for name in METHODS}):
        chosen = next(method for each, method in METHODS.items() if each.startswith(name))
        method = {key: value for key, value in chosen.items() if key != "compression"}
        record = run(folder / "shards", folder / f"plain {name}", world, parallel=method, epochs=4, **SMALL)
        losses[name] = record.content["history"][-1]["validation"]["loss"]
    return losses


@pytest.mark.mpi
@pytest.mark.parametrize("name", METHODS)
def test_a_run_learns_nearly_as_much_and_goes_on_bit_for_bit(world, folder, uncompressed, name):
    """Stopped by a signal in its second epoch, where a method hears of it, or at the end of that epoch."""
    changes = {"parallel": METHODS[name], "epochs": 4, **SMALL}
    whole = run(folder / "shards", folder / f"whole {name}", world, **changes)
    history = whole.content["history"]
    loss = history[-1]["validation"]["loss"]
    plain = uncompressed[name.partition(",")[0]]
    few = METHODS[name]["compression"] is FEW
    assert loss < history[0]["validation"]["loss"]
    assert loss == pytest.approx(plain, rel=0.25 if few else 0.01)
    assert len(set(world.allgather_object(loss))) == 1
    document = synthetic.experiment_document(folder / "shards", folder / f"stopped {name}", **changes)
    stopping = Experiment.model_validate(document)

    def stop(event, values):
        if event == "batch" and (values["epoch"], values["batch"]) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(stopping, world, zoo.create, listen=stop)
    world.barrier()
    resumed = train(stopping, world, zoo.create, resume=True)
    assert_identical(parameters(whole), parameters(resumed))


@pytest.mark.mpi
def test_bytes_that_are_sent(world, folder):
    """By hand: an epoch of gradients in one bucket, and one of parameters that meet every 2 batches."""
    batches = math.ceil(19 / (4 * world.size))
    for compression in ({"method": "fp16"}, HALVES, FEW):
        for method in ("gradient", "fixed"):
            parallel = {"method": method, "compression": compression} | (
                {"period": 2, "optimizer_state": "keep"} if method == "fixed" else {}
            )
            output = folder / f"sent {compression['method']} {method}"
            record = run(folder / "shards", output, world, parallel=parallel, epochs=1)
            count = record.content["parameters"]
            vector = world.size * 2 * math.ceil(count / world.size)
            if compression["method"] == "fp16":
                vector += 4 * world.size
            if compression is FEW:
                vector = 8 * math.ceil(0.1 * count)
            sums = batches if method == "gradient" else math.ceil(batches / 2)
            # A meeting a batch, or a question in its place but after the last; one at the end.
            flags = 16 * (batches + 1 if method == "gradient" else batches)
            (epoch,) = record.content["history"]
            assert epoch["bytes_sent"] == sums * vector + flags, output


@pytest.mark.mpi
def test_an_other_number_of_ranks_takes_over_what_was_left_over(world, folder):
    """A checkpoint of 3 ranks, two of which have left something over: each rank gets an equal part of all."""
    changes = {"parallel": METHODS["fixed, top-k"], "epochs": 1}
    document = synthetic.experiment_document(folder / "shards", folder / "left over", **changes, **SMALL)
    trainer = Trainer(Experiment.model_validate(document), world, zoo.create)
    size = trainer.model.parameter_vector.size
    checkpoints = CheckpointFolder(folder / "of 3 ranks")
    agreed = trainer.model.state() | {"averaging/reference": np.full(size, 5, np.float32)}
    row = np.concatenate([array.reshape(-1).view(np.uint8) for array in agreed.values()])
    if world.rank == 0:
        checkpoints.folder.mkdir()
        unsent = Layout([(UNSENT_PARAMETERS, "<f4", (size,))])
        checkpoint = Checkpoint(epoch=1, samples=0, ranks=3, agreed=Layout.of(agreed), own=unsent)
        edges = checkpoint.agreed.cut(3)
        for rank, left_over in enumerate([1.5, 0, -4]):
            start, stop = edges[rank : rank + 2]
            own = np.full(size, left_over, np.float32).view(np.uint8)
            content = np.concatenate([row[start:stop], own])
            digest = checkpoints.write_part(checkpoint, rank, content, lambda: None)
            checkpoint.parts.append(Part(rank, start, stop, content.size, digest))
        checkpoints.write_description(checkpoint)
    world.barrier()
    (path,) = checkpoints.descriptions()
    load(checkpoints, checkpoints.load(path), trainer.model, trainer.method, world)
    assert trainer.method.compressed.sum.unsent.tolist() == [-2.5 / world.size] * size
    assert trainer.method.compressed.reference.tolist() == [5] * size


@pytest.mark.mpi
def test_one_rank_goes_on_with_what_ranks_have_agreed_upon(world, folder):
    changes = {"parallel": METHODS["fixed, top-k"], "epochs": 1, **SMALL}
    record = run(folder / "shards", folder / "fewer", world, **changes)
    checkpoints = CheckpointFolder(record.checkpoints)
    assert len(checkpoints.load(checkpoints.descriptions()[-1]).parts) == world.size
    if world.rank == 0:
        document = synthetic.experiment_document(folder / "shards", folder / "fewer", **changes)
        longer = Experiment.model_validate(document | {"epochs": 3})
        alone = train(longer, World(), zoo.create, resume=True).content["history"]
        assert len(alone) == 3
        assert alone[2]["validation"]["loss"] < alone[0]["validation"]["loss"]
    world.barrier()


@pytest.mark.mpi
def test_a_bad_loss_on_one_rank_is_told_alike_on_all(world, folder):
    if world.rank == 0:
        images = np.random.default_rng(0).normal(size=(8, 1, 16, 16)).astype(np.float32)
        images[5, 0, 0, 0] = np.nan
        masks = np.zeros((8, 16, 16), np.uint8)
        synthetic.write_shards(folder / "bad", {"training": (images, masks, None)}, ["disc"])
    world.barrier()
    for name in ("gradient, fp16", "gradient, top-k", "fixed, top-k"):
        changes = {"batch_size": 1, "parallel": METHODS[name], **SMALL}
        with pytest.raises(DhhpcError, match="training image training-5 ") as caught:
            run(folder / "bad", folder / f"bad {name}", world, **changes)
        assert len(set(world.allgather_object(str(caught.value)))) == 1


@pytest.mark.parametrize(
    ("parallel", "told"),
    [
        ({"method": "spatial", "compression": HALVES}, "parallel.compression: method spatial compresses "),
        ({"method": "two-level", "compression": FEW}, "parallel.compression: method two-level compresses "),
        (
            {"method": "fixed", "compression": {"method": "fp16", "ratio": 0.5}},
            "parallel.compression: ratio is of top-k, fp16 sends all numbers; leave ratio out",
        ),
        (
            {"method": "gradient", "compression": {"method": "top-k", "ratio": 0}},
            "parallel.compression.ratio: ",
        ),
    ],
)
def test_what_cannot_be_compressed_is_refused(tmp_path, parallel, told):
    file = synthetic.write_experiment(tmp_path / "e.yml", tmp_path, tmp_path / "run", parallel=parallel)
    with pytest.raises(DhhpcError) as caught:
        read_experiment(file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.mpi
def test_an_other_compression_is_another_experiment(world, folder):
    method = {"method": "fixed", "period": 2, "compression": {"method": "fp16"}}
    run(folder / "shards", folder / "other", world, parallel=method, epochs=1)
    assert read_run(folder / "other").content["experiment"]["parallel"]["compression"]["method"] == "fp16"
    document = synthetic.experiment_document(
        folder / "shards", folder / "other", parallel=method | {"compression": HALVES}, epochs=2
    )
    with pytest.raises(DhhpcError, match=r"another parallel\.compression\.method"):
        train(Experiment.model_validate(document), world, zoo.create, resume=True)
