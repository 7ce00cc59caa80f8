"""Training in this process: what a run computes and leaves behind."""

import json
import re

import numpy as np
import onnx
import pytest

from dhhpc import eddl, zoo
from dhhpc.data.loader import Loader
from dhhpc.errors import DhhpcError
from dhhpc.files import write_json
from dhhpc.mpi import World
from dhhpc.training import Experiment, check, evaluate, load_network, read_run, train
from dhhpc.training.checkpoint import CheckpointFolder
from dhhpc.training.trainer import Trainer
from tests import synthetic
from tests.training.runs import assert_identical, parameters, run


def test_training_learns_and_leaves_a_whole_run_folder(discs, tmp_path):
    record = run(
        discs,
        tmp_path / "run",
        epochs=25,
        optimizer={"name": "adam", "learning_rate": 0.02},
        metrics=["dice"],
        schedule={"name": "cosine", "warmup_epochs": 1},
        checkpoint={"select": "best", "keep": 1},
        augmentations=[{"name": "flip", "axes": "yx"}],
    )
    content = read_run(record.folder).content
    assert content["status"] == "finished"
    history = content["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(25))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    best = max(range(25), key=lambda epoch: history[epoch]["validation"]["dice"])
    assert content["selected_epoch"] == best
    assert history[best]["validation"]["dice"] > 0.8
    seconds = {"data", "compute", "communication", "wait", "validation"}
    assert set(history[0]["ranks"][0]) == seconds | {"messages", "bytes_sent", "bytes_in_node"}
    assert history[0]["ranks"][0]["messages"] == 0
    for epoch in history:
        assert 0 < epoch["ranks"][0]["validation"] <= epoch["validation_seconds"]
    assert sum(epoch["checkpoint_seconds"] for epoch in history) < content["kpis"]["totm"]
    assert content["kpis"]["totm"] >= sum(epoch["seconds"] for epoch in history)
    assert content["samples"] == {"training": 21, "validation": 6, "test": 5}
    events = [json.loads(line) for line in (record.folder / "events.jsonl").read_text().splitlines()]
    assert sorted(event["event"] for event in events) == sorted(
        ["start", *25 * ["epoch"], *25 * ["checkpoint"], "end"]
    )
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    # Parameters and two numbers for each that Adam remembers, in one copy, whatever else is in it.
    told = next(event for event in events if event["event"] == "checkpoint")
    assert 12 * content["parameters"] <= told["snapshot_bytes"] < 12 * content["parameters"] + 1000
    onnx.checker.check_model(onnx.load(record.onnx))
    model, _, shards = load_network(record, zoo.create)
    results = evaluate(model, shards, "validation", World())
    for name in ("dice", "auc", "loss", "image_dice"):
        assert results[name] == pytest.approx(history[best]["validation"][name]), name
    assert record.metrics()["validation"]["dice"] == results["dice"]


def test_an_epoch_is_the_loop_over_the_loader(discs, tmp_path):
    """Against the network trained by hand, batch by batch, with the schedule written out."""
    record = run(discs, tmp_path / "run", epochs=2, schedule={"name": "constant", "warmup_epochs": 1})
    experiment = Experiment.model_validate(record.content["experiment"])
    shards = check(experiment, 1, zoo.create)
    model = zoo.create("unet", (1, 16, 16), 1, channels=[4, 8], normalization=False)
    optimizer = eddl.SGD(0.1)
    model.build(optimizer=optimizer, losses=["binary_cross_entropy"], seed=3)
    losses = []
    for epoch in range(2):
        total = 0.0
        taken = 0
        for batch in Loader(shards, "training", 4, seed=3).epoch(epoch):
            taken += len(batch.indices)
            optimizer.learning_rate = 0.1 * min(1, epoch + taken / 21)
            total += len(batch.indices) * model.train_batch([batch.images], [batch.targets])["loss"]
        losses.append(total / 21)
    assert [epoch["loss"] for epoch in record.content["history"]] == pytest.approx(losses)
    named = {f"parameters/{name}": array for name, array in model.parameters().items()}
    assert_identical(parameters(record), named)


@pytest.mark.parametrize("method", [{"method": "gradient"}, {"method": "fixed", "period": 3}])
def test_the_same_seed_gives_the_same_parameters(discs, tmp_path, method):
    changes = {
        "parallel": method,
        "network": {"name": "unet", "channels": [4, 8]},
        "optimizer": {"name": "adam"},
        "augmentations": [{"name": "flip"}, {"name": "noise"}],
        "data": {"shards": str(discs), "patch": {"size": [8, 8], "per_image": 2}, "threads": 2},
    }
    one, two = (parameters(run(discs, tmp_path / name, **changes)) for name in ("a", "b"))
    assert_identical(one, two)
    other = parameters(run(discs, tmp_path / "c", seed=4, **changes))
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


def test_low_memory_gives_the_same_parameters_and_may_be_changed_on_resuming(discs, tmp_path):
    changes = {"network": {"name": "unet", "channels": [4, 8]}, "optimizer": {"name": "adam"}}
    full = run(discs, tmp_path / "full", epochs=3, **changes)
    run(discs, tmp_path / "low", epochs=2, memory="low", **changes)
    document = synthetic.experiment_document(discs, tmp_path / "low", epochs=3, **changes)
    low = train(Experiment.model_validate(document), World(), zoo.create, resume=True)
    assert_identical(parameters(full), parameters(low))


def test_classification(tmp_path):
    shards = synthetic.write_stripes(tmp_path / "stripes", {"training": 60, "validation": 30})
    record = run(
        shards,
        tmp_path / "run",
        network={"name": "convnet", "channels": [8, 16]},
        loss="softmax_cross_entropy",
        metrics=["accuracy"],
        optimizer={"name": "adam", "learning_rate": 0.01},
        epochs=12,
    )
    validation = record.metrics()["validation"]
    assert validation["accuracy"] > 0.8
    assert validation["auc"] > 0.9


def test_evaluation_counts_inside_regions_only(tmp_path):
    """The same network on the same images gives the metrics of the region, worked out on the cut images."""
    inside = synthetic.write_discs(tmp_path / "regions", {"training": 4, "test": 6}, regions=True)
    record = run(inside, tmp_path / "run", epochs=1)
    model, _, shards = load_network(record, zoo.create)
    results = evaluate(model, shards, "test", World())
    images, masks, regions = shards.read("test", range(6))
    probabilities = model.predict([images])[0][:, 0]
    assert regions is not None
    assert 0 < np.count_nonzero(regions) < regions.size
    right = (probabilities > 0.5) == (masks > 0)
    assert results["accuracy"] == pytest.approx(right[regions != 0].mean())
    assert results["samples"] == 6


def test_whole_images_of_any_size_after_training_on_patches(tmp_path):
    """21 x 21 images are no multiple of what the network halves: they are reflected and cut back."""
    shards = synthetic.write_discs(tmp_path / "odd", {"training": 6, "validation": 3}, size=21)
    data = {"shards": str(shards), "patch": {"size": [16, 16], "per_image": 2}}
    record = run(shards, tmp_path / "run", data=data, epochs=1)
    assert record.content["history"][0]["validation"]["samples"] == 3


def test_a_used_run_folder_is_refused_without_resume(discs, tmp_path):
    run(discs, tmp_path / "run", epochs=1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(DhhpcError, match=r"holds an earlier run; continue it with --resume, or .* --output"):
        run(discs, tmp_path / "run", epochs=1)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_another_experiment_is_not_resumed(discs, tmp_path):
    run(discs, tmp_path / "run", epochs=1)
    changed = synthetic.experiment_document(discs, tmp_path / "run", batch_size=3)
    with pytest.raises(DhhpcError, match="started with another batch_size"):
        train(Experiment.model_validate(changed), World(), zoo.create, resume=True)


def test_resume_trains_further_epochs_as_one_run_would(discs, tmp_path):
    """Also with a damaged newest checkpoint, which is named, and the one before is used."""
    changes = {
        "network": {"name": "unet", "channels": [4, 8]},
        "optimizer": {"name": "adam"},
        "augmentations": [{"name": "flip"}],
    }
    whole = run(discs, tmp_path / "whole", epochs=4, **changes)
    run(discs, tmp_path / "parts", epochs=3, **changes)
    newest = tmp_path / "parts" / "checkpoints" / "epoch-00003-sample-000000000-rank-00000.part"
    newest.write_bytes(newest.read_bytes()[:1000])
    heard: list[str] = []
    document = synthetic.experiment_document(discs, tmp_path / "parts", epochs=4, **changes)
    parts = train(
        Experiment.model_validate(document),
        World(),
        zoo.create,
        resume=True,
        listen=lambda event, values: heard.append(f"{event} {values}") if event == "warning" else None,
    )
    assert len(heard) == 1
    assert "epoch-00003" in heard[0]
    assert_identical(parameters(whole), parameters(parts))
    losses = [[epoch["loss"] for epoch in record.content["history"]] for record in (whole, parts)]
    assert losses[0] == losses[1]


DIVERGING = {
    "optimizer": {"name": "sgd", "learning_rate": 1e30},
    "network": {"name": "unet", "channels": [4, 8], "normalization": False},
    "loss": "mean_squared_error",
}
HUGE = {"name": "sgd", "learning_rate": 3e38, "weight_decay": 3e38}


@pytest.mark.parametrize("damage", ["arrays", "description"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(discs, tmp_path, damage):
    whole = run(discs, tmp_path / "whole", epochs=3)
    record = run(discs, tmp_path / "run", epochs=2)
    newest = CheckpointFolder(record.checkpoints).descriptions()[-1]
    if damage == "arrays":
        newest = newest.with_name(f"{newest.stem}-rank-00000.part")
    newest.write_bytes(newest.read_bytes()[:100])
    heard = []
    document = synthetic.experiment_document(discs, tmp_path / "run", epochs=3)
    resumed = train(
        Experiment.model_validate(document),
        World(),
        zoo.create,
        resume=True,
        listen=lambda event, values: heard.append(values["message"]) if event == "warning" else None,
    )
    assert_identical(parameters(whole), parameters(resumed))
    (line,) = heard
    assert newest.stem in line
    assert line.endswith("; going on from the checkpoint before it")


def test_a_loss_that_is_no_number_names_epoch_batch_and_layer(discs, tmp_path):
    with pytest.raises(DhhpcError, match=r"epoch 1, batch \d+: the loss is (nan|inf): ") as caught:
        run(discs, tmp_path / "run", epochs=20, **DIVERGING)
    line = str(caught.value)
    assert "\n" not in line
    assert re.search(r"layer conv2d_\d+ \(Conv2D\) in the (forward|last backward) pass", line)
    assert line.endswith("lower optimizer.learning_rate and start again (there is no checkpoint yet)")
    assert read_run(tmp_path / "run").content["status"] == "failed"


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_goes_on_with_smaller_steps(discs, tmp_path):
    """The learning rate explodes in the third epoch; the second's checkpoint stays and is named."""
    usual = {"name": "sgd", "learning_rate": 0.1}
    run(discs, tmp_path / "run", epochs=2, **DIVERGING | {"optimizer": usual})
    kept = tmp_path / "run" / "checkpoints" / "epoch-00002-sample-000000000.json"
    before = kept.read_bytes()

    def go_on(listen=lambda event, values: None, **changes):
        document = synthetic.experiment_document(discs, tmp_path / "run", epochs=4, **DIVERGING | changes)
        return train(Experiment.model_validate(document), World(), zoo.create, resume=True, listen=listen)

    with pytest.raises(DhhpcError, match=r"started with another optimizer\.learning_rate"):
        go_on()
    content = read_run(tmp_path / "run").content
    write_json(tmp_path / "run" / "run.json", content | {"status": "failed"})
    with pytest.raises(DhhpcError, match="epoch 3, batch") as caught:
        go_on()
    assert str(caught.value).endswith(f"and go on with --resume from the last good checkpoint, {kept}")
    assert kept.read_bytes() == before
    assert CheckpointFolder(kept.parent).descriptions()[-1].stem == kept.stem
    heard: list[str] = []
    record = go_on(lambda event, values: heard.append(f"{event} {values}"), optimizer=usual)
    assert record.content["status"] == "finished"
    assert any(
        "the run there failed; going on with another optimizer.learning_rate" in line for line in heard
    )


def test_a_checkpoint_on_its_way_is_finished_where_the_run_diverges_after_it(discs, tmp_path):
    """Named before it exists: the learning rate explodes in the first batch after it was begun."""
    document = synthetic.experiment_document(discs, tmp_path / "run", epochs=3)
    trainer = Trainer(Experiment.model_validate(document), World(), zoo.create)

    def explode(event, values):
        if event == "epoch":
            trainer.base_rate = 1e30

    trainer.listen = explode
    with pytest.raises(DhhpcError, match="epoch 2, batch") as caught:
        trainer.run(resume=False)
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    (kept,) = folder.descriptions()
    assert kept.stem == "epoch-00001-sample-000000000"
    assert str(caught.value).endswith(f"from the last good checkpoint, {kept}")
    assert folder.state(folder.load(kept)).keys() == trainer.model.state().keys()


def test_a_network_that_is_no_longer_finite_never_becomes_a_checkpoint(discs, tmp_path):
    """One batch an epoch: its loss is finite, its step is not, and the epoch ends there."""
    with pytest.raises(DhhpcError, match="epoch 1: the network is no longer finite: the ") as caught:
        run(discs, tmp_path / "run", batch_size=21, **DIVERGING | {"optimizer": HUGE})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_image_with_nan_is_named(tmp_path):
    images = np.random.default_rng(0).normal(size=(8, 1, 16, 16)).astype(np.float32)
    masks = np.zeros((8, 16, 16), np.uint8)
    spoilt = images.copy()
    spoilt[5, 0, 0, 0] = np.nan
    for name, training, validation in (("training", spoilt, images), ("validation", images, spoilt)):
        splits = {"training": (training, masks, None), "validation": (validation, masks, None)}
        shards = synthetic.write_shards(tmp_path / name, splits, ["disc"])
        batch = "epoch 1, batch [12]:" if name == "training" else "epoch 1, validation:"
        with pytest.raises(
            DhhpcError, match=rf"{batch} the loss is nan: .* in input image, {name} image {name}-5 of "
        ):
            run(shards, tmp_path / f"run-{name}")


def test_fewer_samples_than_ranks(discs, tmp_path):
    experiment = Experiment.model_validate(synthetic.experiment_document(discs, tmp_path / "run"))
    with pytest.raises(DhhpcError, match="21 training samples for 22 ranks; start at most 21 ranks"):
        check(experiment, 22, zoo.create)
