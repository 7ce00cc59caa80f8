"""Training on real ranks: `mpiexec -n 2 python -m pytest --with-mpi -m mpi`."""

import numpy as np
import pytest

from dhhpc import eddl, zoo
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training import Experiment, check, read_run
from tests import synthetic
from tests.training.processes import final_state
from tests.training.runs import assert_close, assert_identical, largest_difference, parameters, run


def with_dropout(name, shape, classes, **options):
    x = eddl.Input(shape, name="image")
    y = eddl.Dropout(eddl.ReLU(eddl.Conv2D(x, 4, 3)), 0.3)
    return eddl.Model([x], [eddl.Sigmoid(eddl.Conv2D(y, classes, 1))])


def alone(world, shards, output, **changes):
    """The run on rank 0 alone, for comparison; its parameters on all ranks."""
    found = parameters(run(shards, output, World(), **changes)) if world.rank == 0 else None
    return world.broadcast_object(found)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "optimizer", [{"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, {"name": "sgd"}]
)
def test_gradient_averaging_equals_one_rank_with_the_global_batch(world, shared, shards, optimizer):
    """With an uneven last batch in every epoch."""
    changes = {"optimizer": optimizer, "epochs": 8}
    together = run(shards, shared / "together", world, batch_size=4, **changes)
    expected = alone(world, shards, shared / "alone", batch_size=4 * world.size, **changes)
    assert_close(parameters(together), expected)
    # In each batch a meeting of two numbers and all gradients as one bucket; a meeting at the end.
    batches = -(-19 // (4 * world.size))
    size = 16 + 4 * together.content["parameters"]
    sent = {"messages": 2 * batches + 1, "bytes_sent": batches * size + 16}
    for epoch in together.content["history"]:
        assert [{name: part[name] for name in sent} for part in epoch["ranks"]] == [sent] * world.size
        assert {name: epoch[name] for name in sent} == sent


@pytest.mark.mpi
def test_ranks_take_the_parts_of_a_batch_that_the_experiment_says(world, shared, shards):
    """On two ranks 7 and 1 of 8 samples, and of the last 3 all on the first; steps are those of one rank."""
    method = {"method": "gradient", "split": [7.0] + [1.0] * (world.size - 1)}
    together = run(shards, shared / "together", world, parallel=method, epochs=2)
    expected = alone(world, shards, shared / "alone", batch_size=4 * world.size, epochs=2)
    assert_close(parameters(together), expected)
    for epoch in together.content["history"]:
        taken = [pace["samples"] for pace in epoch["paces"]]
        assert sum(taken) == 19
        assert world.size != 2 or taken == [17, 2]
    with pytest.raises(
        DhhpcError, match=rf"weights for {world.size} ranks, but there are 1; start {world.size}"
    ):
        alone(World(), shards, shared / "other", parallel=method)


@pytest.mark.mpi
@pytest.mark.parametrize("megabytes", [0, 0.002])
@pytest.mark.parametrize("memory", ["full", "low"])
def test_synchronised_batch_normalisation_equals_one_rank(world, shared, megabytes, memory):
    """50 steps, and the running statistics too; the second batch of an epoch leaves ranks without samples."""
    if world.rank == 0:
        synthetic.write_discs(shared / "odd", {"training": 8 * world.size + 1})
    world.barrier()
    changes = {
        "epochs": 25,
        "memory": memory,
        "network": {"name": "unet", "channels": [4, 8]},
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
    }
    method = {"method": "gradient", "batch_normalization": "synchronised", "bucket_megabytes": megabytes}
    together = run(shared / "odd", shared / "ranks", world, batch_size=8, parallel=method, **changes)
    expected = alone(world, shared / "odd", shared / "alone", batch_size=8 * world.size, **changes)
    assert any("running_variance" in name for name in expected)
    assert largest_difference(parameters(together), expected) < 1e-5
    local = run(shared / "odd", shared / "local", world, batch_size=8, **changes)
    assert largest_difference(parameters(local), expected) > 1e-3


@pytest.mark.mpi
def test_ranks_drop_what_one_rank_with_the_global_batch_drops(world, shared, shards):
    changes = {"epochs": 2, "create": with_dropout}
    together = run(shards, shared / "together", world, batch_size=4, **changes)
    expected = alone(world, shards, shared / "alone", batch_size=4 * world.size, **changes)
    assert_close(parameters(together), expected)


@pytest.mark.mpi
def test_a_divided_batch_equals_one_rank(world, shared, shards):
    changes = {"batch_size": 4, "epochs": 4}
    method = {"method": "gradient", "batch": "divide"}
    together = run(shards, shared / "together", world, parallel=method, **changes)
    expected = alone(world, shards, shared / "alone", **changes)
    assert_close(parameters(together), expected)


@pytest.mark.mpi
def test_averaging_every_batch_with_plain_sgd_equals_gradient_averaging(world, shared, shards):
    gradient = run(shards, shared / "gradient", world, epochs=4)
    fixed = run(shards, shared / "fixed", world, epochs=4, parallel={"method": "fixed", "period": 1})
    assert_close(parameters(fixed), parameters(gradient))


@pytest.mark.mpi
def test_more_ranks_than_samples_in_the_last_batch(world, shared):
    """17 samples in batches of 16: one rank has nothing in the second batch."""
    if world.rank == 0:
        synthetic.write_discs(shared / "odd", {"training": 17})
    world.barrier()
    for method in ({"method": "gradient"}, {"method": "fixed", "period": 1}):
        name = method["method"]
        changes = {"parallel": method, "epochs": 3}
        together = run(shared / "odd", shared / name, world, batch_size=8, **changes)
        expected = alone(
            world, shared / "odd", shared / f"{name}-alone", batch_size=8 * world.size, **changes
        )
        assert_close(parameters(together), expected)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "method", [{"method": "gradient"}, {"method": "fixed", "period": 2}, {"method": "fixed", "period": 100}]
)
def test_ranks_end_alike_and_repeat_bit_for_bit(world, shared, shards, method):
    """With batch normalisation and Adam: parameters, statistics and optimizer state."""
    changes = {
        "parallel": method,
        "network": {"name": "unet", "channels": [4, 8]},
        "optimizer": {"name": "adam"},
        "augmentations": [{"name": "flip"}],
    }
    one, two = (run(shards, shared / name, world, **changes) for name in ("a", "b"))
    assert_identical(parameters(one), parameters(two))
    assert one.content["history"][0]["loss"] == two.content["history"][0]["loss"]
    validations = world.allgather_object(one.content["history"][-1]["validation"]["loss"])
    assert len(set(validations)) == 1
    if world.rank == 0:
        assert final_state(one.folder) == final_state(two.folder)


@pytest.mark.mpi
def test_a_bad_loss_on_one_rank_is_told_alike_on_all(world, shared):
    """A training image with NaN lies with one rank only."""
    if world.rank == 0:
        images = np.random.default_rng(0).normal(size=(8, 1, 16, 16)).astype(np.float32)
        images[5, 0, 0, 0] = np.nan
        masks = np.zeros((8, 16, 16), np.uint8)
        synthetic.write_shards(shared / "bad", {"training": (images, masks, None)}, ["disc"])
    world.barrier()
    methods = (
        {"method": "gradient"},
        {"method": "fixed", "period": 3},
        {"method": "gradient", "batch_normalization": "synchronised"},
    )
    network = {"name": "unet", "channels": [4, 8]}
    for number, method in enumerate(methods):
        changes = {"batch_size": 1, "parallel": method, "network": network}
        with pytest.raises(
            DhhpcError, match=r"the loss is nan: sample 1 .* training image training-5 "
        ) as caught:
            run(shared / "bad", shared / f"run-{number}", world, **changes)
        assert len(set(world.allgather_object(str(caught.value)))) == 1


@pytest.mark.mpi
def test_images_cut_over_the_ranks_equal_one_rank(world, shared):
    """12 steps and the validations between them; of 18 rows, 9 lie on the lower level."""
    if world.rank == 0:
        synthetic.write_discs(shared / "discs", {"training": 10, "validation": 3}, size=18)
    world.barrier()
    changes = {
        "epochs": 4,
        "metrics": ["dice"],
        "loss": "binary_cross_entropy+dice",
        "network": {"name": "unet", "channels": [4, 8]},
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "augmentations": [{"name": "flip"}],
    }
    together = run(shared / "discs", shared / "ranks", world, parallel={"method": "spatial"}, **changes)
    one = world.broadcast_object(
        run(shared / "discs", shared / "alone", World(), **changes).folder if world.rank == 0 else None
    )
    expected = read_run(one)
    assert largest_difference(parameters(together), parameters(expected)) < 1e-5
    for found, alone_found in zip(together.content["history"], expected.content["history"], strict=True):
        for name in ("loss", "dice"):
            assert found[name] == pytest.approx(alone_found[name], rel=1e-5)
        assert found["validation"] == pytest.approx(alone_found["validation"], rel=1e-5)
        assert found["messages"] > 0


def test_images_too_small_to_be_cut(discs, tmp_path):
    changes = {"parallel": {"method": "spatial"}, "network": {"name": "unet", "channels": [4, 4, 4, 4]}}
    experiment = Experiment.model_validate(synthetic.experiment_document(discs, tmp_path, **changes))
    check(experiment, 2, zoo.create)
    with pytest.raises(DhhpcError, match="too few for 3 ranks; give images of at least 24 rows"):
        check(experiment, 3, zoo.create)
