"""The methods by which ranks learn together, against the same steps made by hand in one process."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dhhpc import eddl, zoo
from dhhpc.data.loader import Loader
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json
from dhhpc.mpi import World
from dhhpc.training import Experiment, Stopped, check, read_run, train
from dhhpc.training.checkpoint import CheckpointFolder
from dhhpc.training.network import create_network
from tests import synthetic
from tests.training.runs import assert_close, assert_identical, parameters

SGD = {"name": "sgd", "learning_rate": 0.03, "momentum": 0.9}
METHODS = {
    "fixed": {"method": "fixed", "period": 2},
    "fixed, own optimizers": {"method": "fixed", "period": 2, "optimizer_state": "keep"},
    "increasing": {"method": "increasing", "period": 1, "longest": 4},
    "sawtooth": {"method": "sawtooth", "period": 1, "longest": 2},
    "negative sawtooth": {"method": "negative-sawtooth", "period": 1, "longest": 4},
    "local SGD": {"method": "local-sgd", "period": 4, "switch_epoch": 1, "warmup_epochs": 2},
    "block momentum": {"method": "block-momentum", "period": 2},
    "block momentum, classical": {
        "method": "block-momentum",
        "period": 2,
        "momentum": 0.3,
        "step": 0.8,
        "nesterov": False,
    },
    "elastic": {"method": "elastic", "period": 2},
    "fixed, long": {"method": "fixed", "period": 1000},
    "DiLoCo": {"method": "diloco", "period": 4, "outer_learning_rate": 0.7, "outer_momentum": 0.9},
    "DiLoCo, long": {"method": "diloco", "period": 100, "outer_learning_rate": 0.7, "outer_momentum": 0.0},
    "two levels": {"method": "two-level", "near_period": 1, "period": 2, "ranks_per_group": 2},
    "two levels, groups of one": {"method": "two-level", "near_period": 1, "period": 2, "ranks_per_group": 1},
}
PERIODS = {
    "increasing": [1, 2, 4, 4],
    "sawtooth": [1, 2, 1, 2],
    "negative sawtooth": [4, 2, 1, 4],
    "local SGD": [1, 1, 2, 4],
}


def experiment(shards: Path, output: Path, **changes) -> Experiment:
    return Experiment.model_validate(
        synthetic.experiment_document(shards, output, **({"epochs": 4, "optimizer": SGD} | changes))
    )


def smooth(name: str, input_shape, classes: int, **options) -> eddl.Model:
    """A network without ReLU and maximum: near their kinks a rounded bit decides which way a gradient goes.

    So what ranks round otherwise than the steps by hand stays small. The U-Net of the other tests came to
    differ by 2e-4 where a bit of its first weights did.
    """
    x = eddl.Input(input_shape)
    skip = eddl.Tanh(eddl.Conv2D(x, 4, 3))
    y = eddl.Tanh(eddl.Conv2D(eddl.AveragePool2D(skip), 8, 3))
    y = eddl.Concat([skip, eddl.ConvTranspose2D(y, 4, 2, 2)])
    return eddl.Model([x], [eddl.Sigmoid(eddl.Conv2D(y, classes, 1), name="mask")], name="smooth")


class Ranks:
    """As many networks as ranks, each trained on its part of the batches."""

    def __init__(self, chosen: Experiment, count: int) -> None:
        self.chosen, self.count = chosen, count
        shards = check(chosen, count, smooth)
        self.loaders = [
            Loader(shards, "training", chosen.batch_size, rank, count, chosen.seed) for rank in range(count)
        ]
        self.models = [create_network(chosen, shards, smooth) for _ in range(count)]
        for model in self.models:
            model.build(chosen.optimizer.create(), [chosen.loss], seed=chosen.seed)
        self.seen = np.zeros(count)

    def mean(self, vectors) -> np.ndarray:
        return np.average(np.array(vectors, np.float64), axis=0, weights=self.seen)

    def average(self, of) -> None:
        """Replace the vectors that `of` finds in the networks by their mean."""
        mean = self.mean([of(model) for model in self.models])
        for model in self.models:
            of(model)[:] = mean

    def run(self, meet, at_epochs_end: bool, periods) -> dict[str, np.ndarray]:
        """Every so many batches, and if so at the end of an epoch, call `meet`; what rank 0 then holds."""
        batches = 0
        for epoch in range(self.chosen.epochs):
            period = periods[epoch]
            parts = [loader.epoch(epoch) for loader in self.loaders]
            for together in zip(*parts, strict=True):
                for rank, batch in enumerate(together):
                    if len(batch.indices):
                        self.models[rank].train_batch([batch.images], [batch.targets], batch.first)
                    self.seen[rank] += len(batch.indices)
                batches += 1
                if batches >= period:
                    meet()
                    batches, self.seen[:] = 0, 0
            last = epoch + 1 == self.chosen.epochs
            if batches and (at_epochs_end or last):
                meet()
                batches, self.seen[:] = 0, 0
        return {f"parameters/{name}": array for name, array in self.models[0].parameters().items()}


def by_hand(chosen: Experiment, count: int, name: str) -> dict[str, np.ndarray]:
    ranks = Ranks(chosen, count)
    options = chosen.parallel
    start = ranks.models[0].parameter_vector.astype(np.float64)
    periods = PERIODS.get(name) or [options.period] * chosen.epochs

    def vectors():
        return [model.parameter_vector for model in ranks.models]

    def give(values) -> None:
        for vector, value in zip(vectors(), values, strict=True):
            vector[:] = value

    if name.startswith("fixed") or name in PERIODS:

        def meet():
            ranks.average(lambda model: model.parameter_vector)
            if options.optimizer_state == "average":
                ranks.average(lambda model: model.optimizer.state_vector)

        return ranks.run(meet, True, periods)
    if name.startswith("two levels"):
        known = {"batches": 0, "seen": np.zeros(count)}
        groups = [
            range(i, min(i + options.ranks_per_group, count))
            for i in range(0, count, options.ranks_per_group)
        ]

        def average_groups(of, together):
            """The mean of each group, or of them all, weighted by what each has seen."""
            seen = ranks.seen + 1e-12  # of a group that has seen nothing all are alike
            means = [
                np.average([of(ranks.models[rank]) for rank in group], axis=0, weights=seen[group])
                for group in groups
            ]
            if together:
                weights = [known["seen"][group].sum() for group in groups]
                means = [np.average(means, axis=0, weights=weights)] * len(groups)
            for group, mean in zip(groups, means, strict=True):
                for rank in group:
                    of(ranks.models[rank])[:] = mean

        def meet():
            """After every batch; after every second, and the last of an epoch, all ranks together."""
            known["batches"] += 1
            known["seen"] += ranks.seen
            last = known["batches"] == ranks.loaders[0].batches()
            together = last or known["batches"] % 2 == 0
            average_groups(lambda model: model.parameter_vector, together)
            average_groups(lambda model: model.optimizer.state_vector, together)
            if together:
                known["seen"][:] = 0
            known["batches"] = 0 if last else known["batches"]

        return ranks.run(meet, True, [1] * chosen.epochs)
    if name.startswith("block momentum"):
        momentum = 1 - 1 / count if options.momentum is None else options.momentum
        known = {"w": start, "given": start, "step": np.zeros_like(start)}

        def meet():
            """With what the ranks were given: G = mean - given, D = momentum D + step G, W = W + D."""
            gradient = ranks.mean(vectors()) - known["given"]
            known["step"] = momentum * known["step"] + (options.step or 1.0) * gradient
            known["w"] = known["w"] + known["step"]
            known["given"] = known["w"] + (momentum * known["step"] if options.nesterov else 0)
            give([known["given"]] * count)
            ranks.average(lambda model: model.optimizer.state_vector)

        return ranks.run(meet, True, periods)
    if name == "elastic":
        known = {"centre": start}
        rate = options.moving_rate / count

        def meet():
            distances = [vector.astype(np.float64) - known["centre"] for vector in vectors()]
            give([vector - rate * far for vector, far in zip(vectors(), distances, strict=True)])
            known["centre"] = known["centre"] + rate * count * ranks.mean(distances)

        ranks.run(meet, False, periods)
        give([known["centre"]] * count)
        return {f"parameters/{key}": array for key, array in ranks.models[0].parameters().items()}
    known = {"w": start, "velocity": np.zeros_like(start)}

    def meet():
        gradient = known["w"] - ranks.mean(vectors())
        known["velocity"] = options.outer_momentum * known["velocity"] + gradient
        ahead = gradient + options.outer_momentum * known["velocity"]
        known["w"] = known["w"] - options.outer_learning_rate * ahead
        give([known["w"]] * count)

    return ranks.run(meet, False, periods)


@pytest.mark.mpi
@pytest.mark.parametrize("name", METHODS)
def test_equals_the_steps_made_by_hand(world, shared, shards, name):
    """Local SGD's first epoch averages gradients, which averaging after every batch does not equal where the
    optimizer has momentum."""
    optimizer = {"name": "sgd", "learning_rate": 0.03} if name == "local SGD" else SGD
    chosen = experiment(shards, shared / "run", parallel=METHODS[name], optimizer=optimizer)
    record = train(chosen, world, smooth)
    assert_close(parameters(record), by_hand(chosen, world.size, name))
    if name in PERIODS:
        assert [epoch["period"] for epoch in read_run(record.folder).content["history"]] == PERIODS[name]


@pytest.mark.mpi
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_goes_on_bit_for_bit(world, shared, shards, name):
    """Stopped by a signal to one rank: at the next meeting, which may be the end of an epoch."""
    changes = {"parallel": METHODS[name], "network": {"name": "unet", "channels": [4, 8]}}
    whole = train(experiment(shards, shared / "whole", **changes), world, zoo.create)
    stopping = experiment(shards, shared / "stopped", **changes)

    def stop(event, values):
        if event == "epoch" and values["epoch"] == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(stopping, world, zoo.create, listen=stop)
    world.barrier()
    assert read_run(stopping.folder).content["status"] == "stopped"
    resumed = train(stopping, world, zoo.create, resume=True)
    assert_identical(parameters(whole), parameters(resumed))
    histories = [read_run(record.folder).content["history"] for record in (whole, resumed)]
    for one, other in zip(*histories, strict=True):
        assert one["validation"] == other["validation"]


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["fixed, long", "elastic", "DiLoCo, long"])
def test_a_signal_to_one_rank_stops_all_within_few_batches(world, shared, shards, name):
    """Long before the next averaging, and the rest is trained bit for bit as without the stop."""
    changes = {
        "parallel": METHODS[name],
        "network": {"name": "unet", "channels": [4, 8]},
        "data": {"shards": str(shards), "patch": {"size": [8, 8], "per_image": 100}},
        "epochs": 2,
    }
    whole = train(experiment(shards, shared / "whole", **changes), world, zoo.create)
    stopping = experiment(shards, shared / "stopped", **changes)
    processes = world.allgather_object(os.getpid())

    def stop(event, values):
        if event == "batch" and (values["epoch"], values["batch"]) == (1, 6):
            os.kill(processes[-1], signal.SIGTERM)

    with pytest.raises(Stopped):
        train(stopping, world, zoo.create, listen=stop)
    world.barrier()
    assert read_run(stopping.folder).content["status"] == "stopped"
    (*_, newest) = CheckpointFolder(stopping.folder / "checkpoints").descriptions()
    found, together = read_json(newest), stopping.batch_size * world.size
    assert found["epoch"] == 1
    assert 6 * together <= found["samples"] < 19 * 100 / 2  # batches take a millisecond
    assert len(found["parts"]) == world.size
    resumed = train(stopping, world, zoo.create, resume=True)
    assert_identical(parameters(whole), parameters(resumed))


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["fixed, own optimizers", "elastic", "DiLoCo, long"])
def test_a_stopped_run_goes_on_with_one_rank(world, shared, shards, name):
    stopping = experiment(shards, shared / "run", parallel=METHODS[name])

    def stop(event, values):
        if event == "epoch" and values["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(stopping, world, zoo.create, listen=stop)
    world.barrier()
    if world.rank == 0:
        content = read_run(stopping.folder).content
        batch_size = stopping.batch_size * world.size
        alone = stopping.model_copy(update={"batch_size": batch_size})
        if content["experiment"]["batch_size"] != batch_size:
            # The batch of all ranks together stays what it was.
            with pytest.raises(DhhpcError, match="another batch_size"):
                train(alone, World(), zoo.create, resume=True)
        record = train(stopping, World(), zoo.create, resume=True)
        history = read_run(record.folder).content["history"]
        assert len(history) == 4
        assert history[-1]["validation"]["loss"] < history[0]["validation"]["loss"]
    world.barrier()


@pytest.mark.mpi
@pytest.mark.parametrize("megabytes", [0.0005, 0.002, 2.0])
def test_buckets_sent_during_the_backward_pass_give_the_same_parameters(world, shared, shards, megabytes):
    """Batches of 5, so that the last one leaves a rank without samples if there are more than two."""
    changes = {"network": {"name": "unet", "channels": [4, 8]}, "batch_size": 5}
    runs = {}
    for name, size in (("after", 0), ("during", megabytes)):
        method = {"method": "gradient", "bucket_megabytes": size}
        record = train(experiment(shards, shared / name, parallel=method, **changes), world, zoo.create)
        runs[name] = record
    together, apart = (parameters(runs[name]) for name in ("after", "during"))
    if world.size == 2:
        assert_identical(together, apart)
    else:  # several ranks add up a bucket in an order of its own
        assert_close(together, apart)
    messages = {name: record.content["history"][0]["messages"] for name, record in runs.items()}
    if megabytes == 2.0:
        assert messages["during"] == messages["after"]
    else:
        assert messages["during"] > messages["after"]


@pytest.mark.mpi
def test_bytes_that_each_method_sends(world, shared, shards):
    """In units of the network's parameters: a gradient a batch, or once an epoch the parameters, with Adam's
    two moments or without; DiLoCo's epochs end without a meeting."""
    changes = {"optimizer": {"name": "adam"}, "epochs": 2}
    sent, batches = {}, 0
    for name, method in {
        "gradient": {"method": "gradient"},
        "fixed": {"method": "fixed", "period": 3},
        "keep": {"method": "fixed", "period": 3, "optimizer_state": "keep"},
        "diloco": {"method": "diloco", "period": 6},
    }.items():
        record = train(experiment(shards, shared / name, parallel=method, **changes), world, zoo.create)
        content = read_run(record.folder).content
        size = 4 * content["parameters"]
        batches = content["history"][0]["batches"]
        sent[name] = [epoch["bytes_sent"] // size for epoch in content["history"]]
    assert sent == {"gradient": [batches] * 2, "fixed": [3, 3], "keep": [1, 1], "diloco": [0, 1]}
