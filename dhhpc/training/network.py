"""From an experiment to its network, and the trained one into a run folder and from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dhhpc.data.shards import ShardSet
from dhhpc.data.staged_copy import Staged
from dhhpc.eddl import Model
from dhhpc.eddl.spatial import SlabModel, decompose
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, cores_per_rank, pin_to_cores
from dhhpc.training.checkpoint import CheckpointFolder
from dhhpc.training.experiment import Experiment
from dhhpc.training.run_record import RunRecord

Array = np.ndarray[Any, Any]


class CreateNetwork(Protocol):
    """Makes an unbuilt network by name: `dhhpc.zoo.create`, given by the floor above."""

    def __call__(self, name: str, input_shape: Sequence[int], classes: int, **options: Any) -> Model: ...


class Ensemble:
    """Networks of one kind that predict together.

    Args:
        models: built; of the same inputs and outputs.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        first = models[0]
        self.models = list(models)
        self.inputs, self.outputs = first.inputs, first.outputs
        self.losses, self.kernels = first.losses, first.kernels

    def predict(self, inputs: Sequence[Array]) -> list[Array]:
        """The mean over the networks of each output, of sigmoid and softmax layers the mean probability."""
        means = self.models[0].predict(inputs)
        for model in self.models[1:]:
            for mean, output in zip(means, model.predict(inputs), strict=True):
                mean += output
        for mean in means:
            mean /= len(self.models)
        return means

    def to_blame(self, inputs: Sequence[Array]) -> Model:
        """The first network whose outputs are not finite; without such the first one."""
        for model in self.models:
            if not all(np.isfinite(output).all() for output in model.predict(inputs)):
                return model
        return self.models[0]


Predictor = Model | Ensemble
"""A built network, or several that predict as one."""


def create_network(experiment: Experiment, shards: ShardSet, create: CreateNetwork) -> Model:
    """The unbuilt network of `experiment` for the samples of `shards`.

    Raises:
        DhhpcError: the network's name, an option, or the size of the images is wrong.
    """
    channels, height, width = shards.sample_shape
    if experiment.data.patch is not None:
        height, width = experiment.data.patch.size
    network = experiment.network
    return create(network.name, (channels, height, width), shards.target_channels, **network.options)


def load_network(
    record: RunRecord, create: CreateNetwork, staged: Staged | None = None
) -> tuple[Model, Experiment, ShardSet]:
    """The trained network of a finished run, its experiment, and the shards it was trained on, or their copy
    on this node.

    Raises:
        DhhpcError: the run is not finished, or its files or shards are missing or damaged.
    """
    if not record.model.is_file():
        raise DhhpcError(f"{record.model}: no such file; finish the run with `dhhpc train ... --resume`")
    experiment = Experiment.model_validate(record.content["experiment"])
    shards = experiment.data.open(staged)
    model = create_network(experiment, shards, create)
    model.build(losses=[experiment.loss], seed=None)
    model.load(record.model)
    return model, experiment, shards


def write_network(record: RunRecord, model: Model, folder: CheckpointFolder, best: Path | None) -> int | None:
    """Write a trained network as .npz and ONNX: that of the checkpoint described by `best`, which is loaded
    into `model` and whose epoch is returned, or else `model` as it is.

    Raises:
        DhhpcError: the checkpoint is damaged, or a file cannot be written.
    """
    from dhhpc.eddl import export_onnx

    chosen = None
    if best is not None:
        checkpoint = folder.load(best)
        model.load_state(folder.state(checkpoint), str(best))
        chosen = checkpoint.epoch
    model.save(record.model)
    export_onnx(model, record.onnx)
    return chosen


def use_threads(world: World, requested: int | None) -> int:
    """Put this rank on its own cores of the machine, and let kernels and BLAS compute with `requested`
    threads, by default one a core (at most OMP_NUM_THREADS or SLURM_CPUS_PER_TASK where that is set).

    Returns how many threads. All ranks must call this.
    """
    import dhhpc_kernels

    pin_to_cores(world)
    threads = requested or dhhpc_kernels.default_threads(cores_per_rank(world))
    dhhpc_kernels.set_threads(threads)
    return threads


def predict_any_size(model: Predictor, images: Array) -> Array:
    """The first output of `model` for images (n, C, H, W) of any size, see `reflected`."""
    height, width = images.shape[2:]
    output = model.predict([reflected(model, images)])[0]
    return np.ascontiguousarray(output[:, :, :height, :width]) if output.ndim == 4 else output


class TogetherPredicting:
    """`predict_any_size` by all ranks together, each on its rows, for images too large for one of them; see
    `dhhpc.eddl.spatial.decompose`. All ranks give the same images, and have the whole predictions."""

    def __init__(self, model: Predictor, world: World) -> None:
        self.model, self.world = model, world
        self.parts: list[SlabModel] = []
        self.size: tuple[int, ...] = ()

    def __call__(self, images: Array) -> Array:
        """
        Raises:
            DhhpcError: the network or images of this size cannot be cut for so many ranks.
        """
        height, width = images.shape[2:]
        images = reflected(self.model, images)
        if self.size != images.shape[2:]:
            self.size = images.shape[2:]
            models = self.model.models if isinstance(self.model, Ensemble) else [self.model]
            self.parts = [decompose(model, self.world, self.size) for model in models]
        first = self.parts[0]
        output = first.gather(Ensemble(self.parts).predict([first.cut(images)]))[0]
        return np.ascontiguousarray(output[:, :, :height, :width])


def reflected(model: Predictor, images: Array) -> Array:
    """Images (n, C, H, W) of any size, made larger to a size that `model` takes; see `taken_size`.

    They are reflected at the lower and right border; the output is to be cut back.
    """
    size = taken_size(model, images.shape[2:])
    padding = [(0, taken - extent) for taken, extent in zip(size, images.shape[2:], strict=True)]
    if not any(after for _, after in padding):
        return images
    # Several passes where an image is smaller than its padding: NumPy reflects as often as it takes.
    padded = np.pad(images, [(0, 0), (0, 0), *padding], mode="reflect")
    return np.ascontiguousarray(padded)


def taken_size(model: Predictor, size: Sequence[int]) -> tuple[int, ...]:
    """The least size that `model` takes of those that hold images of `size`.

    A fully convolutional network with pooling takes sizes that are multiples of a power of two; whatever that
    is, it divides the size the network was made for. So other sizes grow to multiples of the largest power of
    two in that size.
    """
    built = tuple(model.inputs[0].shape[1:])
    if tuple(size) == built:
        return built
    multiple = min(extent & -extent for extent in built)
    return tuple(-(-extent // multiple) * multiple for extent in size)
