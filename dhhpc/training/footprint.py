"""The memory of a rank, counted before it runs: what its plans, its batches and its checkpoints take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from dhhpc.data.loader import PREFETCH
from dhhpc.data.shards import ShardSet
from dhhpc.eddl import Model
from dhhpc.eddl.graph import Shape
from dhhpc.mpi import parts, share
from dhhpc.mpi.hierarchy import PIECE, SLOTS
from dhhpc.training.evaluation import batch_of
from dhhpc.training.experiment import Experiment
from dhhpc.training.network import CreateNetwork, create_network, taken_size
from dhhpc.training.parallel import Gradient, LocalSGD, Periodic, TwoLevel

FLOAT = 4
# Batches that are there at a time: those made ahead, the one being made, and the one before, which is let go
# of when the next one has come.
BATCHES = PREFETCH + 2
# Of a pixel in evaluation, where masks and counts are compared: two int64, and a few bool and float32.
COMPARED = 32
# Of the parameters, while ONNX is written and checked: protobuf has them as tensors, in a graph, in a model,
# and as a row of bytes.
ONNX_COPIES = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes of one rank, beside those of the process itself: the interpreter, libraries, kernels and MPI.

    Attributes:
        network: parameters, gradients, running statistics and the optimizer's state.
        activations: the arenas of the execution plans of training and validation.
        batches: images and targets that are being made, waiting and in use.
        samples: what the shards keep of all that the rank reads.
        averaging: what the method keeps beside the model, and what is on its way between ranks.
        copies: the snapshot of a checkpoint, or the state that the warm-up takes back, if that is more.
        model_files: what the first rank needs beyond that to write the trained model.
    """

    network: int
    activations: int
    batches: int
    samples: int
    averaging: int
    copies: int
    model_files: int

    @property
    def first(self) -> int:
        """All of it: of rank 0."""
        return sum(asdict(self).values())

    @property
    def other(self) -> int:
        """Of every other rank."""
        return self.first - self.model_files


class Counting:
    """The footprints of an experiment's ranks.

    Args:
        shards: of the experiment.
        create: makes the network, `dhhpc.zoo.create`.

    Attributes:
        model: built; its arrays are not written to, so they take no memory.
    """

    def __init__(self, experiment: Experiment, shards: ShardSet, create: CreateNetwork) -> None:
        self.experiment, self.shards = experiment, shards
        self.model: Model = create_network(experiment, shards, create)
        self.optimizer = experiment.optimizer.create()
        self.model.build(
            self.optimizer, [experiment.loss], experiment.metrics, seed=None, memory=experiment.memory
        )
        self.parameters = FLOAT * self.model.parameter_count
        self.statistics = FLOAT * int(self.model.statistics_vector.size)
        self.optimizer_state = FLOAT * int(self.optimizer.state_vector.size)

    @property
    def state(self) -> int:
        """Bytes of what a checkpoint holds of the model."""
        return self.parameters + self.statistics + self.optimizer_state

    @property
    def samples(self) -> int:
        """Of an epoch, on all ranks."""
        patch = self.experiment.data.patch
        return self.shards.count("training") * (patch.per_image if patch else 1)

    def of(self, ranks: int) -> Footprint:
        """That of a rank of so many; the method of averaging must be another than `spatial`."""
        batch, images = self.batch(ranks), self.images(ranks)
        agreed, own = self.kept(ranks)
        snapshot = own + math.ceil((self.state + agreed) / self.shards_of_checkpoint(ranks, own))
        copies = max(self.state, snapshot)
        written = max(self.state + agreed, ONNX_COPIES * self.parameters)
        return Footprint(
            network=self.network(ranks),
            activations=self.activations(batch, images),
            batches=self.batches(batch, images),
            samples=self.read_samples(ranks),
            averaging=agreed + self.sent(ranks),
            copies=copies,
            model_files=max(0, written - copies),
        )

    def batch(self, ranks: int) -> int:
        """The most samples that a rank has of a batch."""
        size = self.experiment.rank_batch_size(ranks)
        split = self.experiment.parallel.split
        if not isinstance(split, list):
            return size
        return max(size, *(len(part) for part in parts(size * ranks, split)))

    def images(self, ranks: int) -> int:
        """The most images that a rank evaluates at once."""
        return min(batch_of(self.shards), len(share(self.shards.count("validation"), 0, ranks)))

    def steps_alone(self, ranks: int) -> bool:
        """Whether ranks never average gradients."""
        parallel = self.experiment.parallel
        switches = isinstance(parallel, LocalSGD) and parallel.switch_epoch > 0
        return ranks == 1 or not (isinstance(parallel, Gradient) or switches)

    def network(self, ranks: int) -> int:
        """Gradients that are used up during the backward pass are never kept."""
        early = 0
        if self.steps_alone(ranks):
            shapes = [layer.shape for layer in self.model.inputs]
            for layer in self.model.make_plan(1, shapes, training=True).layers:
                if layer.updates_early:
                    early += sum(FLOAT * math.prod(parameter.shape) for parameter in layer.parameters())
        # Statistics are kept as they were before a batch, too.
        return 2 * self.parameters - early + 2 * self.statistics + self.optimizer_state

    def activations(self, batch: int, images: int) -> int:
        """The arenas, in the order in which they are made: one that gets too small is replaced, and the plans
        that were bound to it hold it until they run again."""
        model = self.model
        built: list[Shape] = [layer.shape for layer in model.inputs]
        plans = [(batch, built, False), (batch, built, True)]
        if images:
            channels, *size = self.shards.sample_shape
            plans.append((images, [(channels, *taken_size(model, size))], False))
        arenas = [0]
        for plan in plans:
            size_of_plan = model.make_plan(*plan).size
            if size_of_plan > arenas[-1]:
                arenas.append(size_of_plan)
        return sum(arenas)

    def batches(self, batch: int, images: int) -> int:
        """Of training or of validation, which come one after the other."""
        patch = self.experiment.data.patch
        channels, *whole = self.shards.sample_shape
        segments, regions = self.shards.task == "segmentation", self.shards.index.regions

        def sample(size: int) -> int:
            targets = self.shards.target_channels * (size if segments else 1)
            return FLOAT * (channels * size + targets) + regions * size

        pixels = math.prod(whole)
        trained = sample(math.prod(patch.size) if patch else pixels)
        # A thread that makes a batch has a sample as it is stored and a changed one beside it.
        training = BATCHES * batch * trained + 2 * self.experiment.data.threads * sample(pixels)
        outputs = self.shards.target_channels * (pixels if segments else 1)
        compared = 3 * FLOAT * outputs + (COMPARED * pixels if segments else 0)
        return max(training, BATCHES * images * sample(pixels) + images * compared)

    def read_samples(self, ranks: int) -> int:
        """Of the images that a rank may see in the whole run."""
        epochs, shards = self.experiment.epochs, self.shards
        seen = min(shards.count("training"), epochs * math.ceil(self.samples / ranks))
        validated = len(share(shards.count("validation"), 0, ranks))
        return shards.cached_bytes("training", seen) + shards.cached_bytes("validation", validated)

    def kept(self, ranks: int) -> tuple[int, int]:
        """What the method keeps beside the model: alike on all ranks, and what each has of its own."""
        parallel, own = self.experiment.parallel, 0
        if not isinstance(parallel, Periodic):
            own = self.parameters if parallel.compression is not None and ranks > 1 else 0
            if isinstance(parallel, TwoLevel) and parallel.optimizer_state == "keep" and ranks > 1:
                own += self.optimizer_state
            return 0, own
        combination = parallel.combination(self.model, ranks, max(1, self.samples))
        agreed = sum(array.nbytes for array in combination.remembered.values())
        agreed += sum(array.nbytes for array in combination.agreed or ())
        if ranks > 1:
            if parallel.compression is not None:
                agreed += self.parameters
                own += self.parameters
            if combination.ranks_differ:
                own += self.state
            elif parallel.optimizer_state == "keep":
                own += self.optimizer_state
        return agreed, own

    def sent(self, ranks: int) -> int:
        """What MPI and the method hold while ranks average."""
        if ranks == 1:
            return 0
        parallel = self.experiment.parallel
        # All buckets of gradients may be on their way at once, and MPI adds each up beside it.
        held = self.parameters
        if isinstance(parallel, Periodic | TwoLevel):
            averaged = parallel.optimizer_state == "average"
            held = max(self.parameters, self.optimizer_state if averaged else 0)
            # The model's own numbers while it holds the agreed ones, and two steps on the way to them.
            held += self.parameters + self.statistics + 2 * self.parameters
        if parallel.compression is not None:
            # What is left over, and what is encoded and decoded.
            coded = self.parameters
            if parallel.compression.method == "top-k":
                coded = (ranks + 1) * parallel.compression.create().size_of(self.model.parameter_count)
            held += self.parameters + coded + 2 * self.parameters
        return held + (SLOTS * PIECE if parallel.hierarchy == "nodes" else 0)

    def shards_of_checkpoint(self, ranks: int, own: int) -> int:
        """Among how many ranks is divided what all agree upon, see `CheckpointWriter`."""
        smallest = max(1, round(self.experiment.checkpoint.shard_megabytes * 2**20))
        return ranks if own else max(1, min(ranks, self.state // smallest))
