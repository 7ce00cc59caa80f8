"""The experiment file: everything that decides what a training run computes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import yaml

from dhhpc.data.folds import POOLED, Fold, FoldedShards
from dhhpc.data.loader import Patch
from dhhpc.data.shards import ShardSet
from dhhpc.data.staged_copy import Staged
from dhhpc.documents import Document, known_keys, read_document
from dhhpc.ecvl import Augmentation
from dhhpc.errors import DhhpcError
from dhhpc.training.parallel import Gradient, Parallel
from dhhpc.training.schedules import Constant, Schedule

if TYPE_CHECKING:
    from dhhpc.eddl import Optimizer


class Data(Document):
    """Where the samples come from.

    Attributes:
        shards: the folder that `dhhpc preprocess` wrote, relative to the experiment's file.
        patch: random patches instead of whole images.
        threads: batches made at the same time, beside training.
        fold: one part of a cross-validation, in place of the splits that the shards have.
    """

    shards: Path
    patch: Patch | None = None
    threads: pydantic.PositiveInt = 1
    fold: Fold | None = None

    def open(self, staged: Staged | None = None) -> ShardSet:
        """The samples, their folds cut.

        Args:
            staged: a copy to read in place of `shards`, with what `stored_splits` tells.

        Raises:
            DhhpcError: see `ShardSet` and `FoldedShards`.
        """
        folder, splits = (self.shards, None) if staged is None else (staged.folder, staged.splits)
        if self.fold is None or not (splits is None or set(POOLED) <= set(splits)):
            return ShardSet(folder, splits=splits)
        return FoldedShards(folder, self.fold, splits)

    def stored_splits(self, split: str) -> tuple[str, ...]:
        """Which splits of the shards hold the samples of `split`."""
        return POOLED if self.fold is not None and split in POOLED else (split,)


class Network(pydantic.BaseModel):
    """A network of the zoo by name; every other key is an option of that network."""

    model_config = pydantic.ConfigDict(extra="allow", validate_assignment=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside the name."""
        return dict(self.model_extra or {})


class SGDChoice(Document):
    """Stochastic gradient descent, see `dhhpc.eddl.SGD`."""

    name: Literal["sgd"]
    learning_rate: pydantic.PositiveFloat = 0.01
    momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: pydantic.NonNegativeFloat = 0.0

    def create(self) -> Optimizer:
        from dhhpc.eddl import SGD

        return SGD(**self.model_dump(exclude={"name"}))


class AdamChoice(Document):
    """Adam, or AdamW with `decoupled`, see `dhhpc.eddl.Adam`."""

    name: Literal["adam"]
    learning_rate: pydantic.PositiveFloat = 0.001
    beta1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(default=0.999, ge=0, lt=1)
    epsilon: pydantic.PositiveFloat = 1e-8
    weight_decay: pydantic.NonNegativeFloat = 0.0
    decoupled: bool = False

    def create(self) -> Optimizer:
        from dhhpc.eddl import Adam

        return Adam(**self.model_dump(exclude={"name"}))


class RMSPropChoice(Document):
    """RMSProp, see `dhhpc.eddl.RMSProp`."""

    name: Literal["rmsprop"]
    learning_rate: pydantic.PositiveFloat = 0.01
    decay: float = pydantic.Field(default=0.99, ge=0, lt=1)
    momentum: float = pydantic.Field(default=0.0, ge=0, lt=1)
    epsilon: pydantic.PositiveFloat = 1e-8
    weight_decay: pydantic.NonNegativeFloat = 0.0

    def create(self) -> Optimizer:
        from dhhpc.eddl import RMSProp

        return RMSProp(**self.model_dump(exclude={"name"}))


class AdaGradChoice(Document):
    """AdaGrad, see `dhhpc.eddl.AdaGrad`."""

    name: Literal["adagrad"]
    learning_rate: pydantic.PositiveFloat = 0.01
    epsilon: pydantic.PositiveFloat = 1e-10
    weight_decay: pydantic.NonNegativeFloat = 0.0

    def create(self) -> Optimizer:
        from dhhpc.eddl import AdaGrad

        return AdaGrad(**self.model_dump(exclude={"name"}))


class AdaDeltaChoice(Document):
    """AdaDelta, see `dhhpc.eddl.AdaDelta`."""

    name: Literal["adadelta"]
    learning_rate: pydantic.PositiveFloat = 1.0
    decay: float = pydantic.Field(default=0.9, ge=0, lt=1)
    epsilon: pydantic.PositiveFloat = 1e-6
    weight_decay: pydantic.NonNegativeFloat = 0.0

    def create(self) -> Optimizer:
        from dhhpc.eddl import AdaDelta

        return AdaDelta(**self.model_dump(exclude={"name"}))


class AdaMaxChoice(Document):
    """AdaMax, see `dhhpc.eddl.AdaMax`."""

    name: Literal["adamax"]
    learning_rate: pydantic.PositiveFloat = 0.002
    beta1: float = pydantic.Field(default=0.9, ge=0, lt=1)
    beta2: float = pydantic.Field(default=0.999, ge=0, lt=1)
    epsilon: pydantic.PositiveFloat = 1e-8
    weight_decay: pydantic.NonNegativeFloat = 0.0

    def create(self) -> Optimizer:
        from dhhpc.eddl import AdaMax

        return AdaMax(**self.model_dump(exclude={"name"}))


OptimizerChoice = Annotated[
    SGDChoice | AdamChoice | RMSPropChoice | AdaGradChoice | AdaDeltaChoice | AdaMaxChoice,
    pydantic.Field(discriminator="name"),
]


class CheckpointChoice(Document):
    """When checkpoints are written and which are kept.

    Attributes:
        every_epochs: one is written after every so many epochs, and after the last.
        keep: the newest so many are kept, and the best.
        monitor: the validation metric that tells the best one; unless given, dice for segmentation and
            accuracy for classification, or the smallest loss.
        select: what model.npz and model.onnx hold at the end: the best checkpoint (by `monitor`; the last one
            without a validation split) or the last.
        asynchronous: training goes on while one is written, which takes a copy in memory of what a rank
            writes; else it waits.
        shard_megabytes: what the ranks agree upon is divided over them, in shards of at least this size.
    """

    every_epochs: pydantic.PositiveInt = 1
    keep: pydantic.PositiveInt = 2
    monitor: Literal["dice", "iou", "f1", "auc", "accuracy", "loss"] | None = None
    select: Literal["best", "last"] = "best"
    asynchronous: bool = True
    shard_megabytes: pydantic.PositiveFloat = 8.0


class WatchChoice(Document):
    """When a rank counts as lost, see `dhhpc.mpi.watching`.

    Attributes:
        timeout: seconds without progress, where that is a batch, a message or a piece of a file; 0 for never.
            Longer where kernels are compiled.
    """

    timeout: pydantic.NonNegativeFloat = 600.0


class Experiment(Document):
    """One training run.

    Attributes:
        name: of the run; the default output folder is runs/NAME beside the experiment's file.
        data: the samples.
        network: a network of the zoo and its options.
        loss: names of `dhhpc.eddl` losses joined by "+".
        metrics: also computed on every training batch.
        optimizer, schedule: the update rule, and how the learning rate moves.
        batch_size: samples a batch; of each rank or of all together, see `parallel.batch`.
        epochs: passes over the training split.
        augmentations: random changes of training samples, in order.
        parallel: how ranks learn together.
        checkpoint: when and which.
        watch: when a rank counts as dead or hung, which ends all ranks.
        trace: batches of each epoch whose timeline is written into `trace` of the run folder, a file a rank,
            in the Trace Event Format of chrome://tracing and Perfetto; 0 for none.
        memory: `full`, or `low` to compute values again for the backward pass in place of keeping them: the
            same parameters bit for bit, in less memory and more time.
        threads: of each rank; unless given, its share of the machine's cores.
        seed: of parameters, order, patches and augmentations.
        output: the run folder, relative to the experiment's file.
    """

    name: str = pydantic.Field(min_length=1)
    data: Data
    network: Network
    loss: str
    metrics: list[str] = []
    optimizer: OptimizerChoice
    schedule: Schedule = Constant()
    batch_size: pydantic.PositiveInt
    epochs: pydantic.PositiveInt
    augmentations: list[Augmentation] = []
    parallel: Parallel = Gradient()
    checkpoint: CheckpointChoice = CheckpointChoice()
    watch: WatchChoice = WatchChoice()
    trace: pydantic.NonNegativeInt = 0
    memory: Literal["full", "low"] = "full"
    threads: pydantic.PositiveInt | None = None
    seed: pydantic.NonNegativeInt = 1
    output: Path | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output if self.output is not None else Path("runs") / self.name

    def rank_batch_size(self, ranks: int) -> int:
        """Samples a rank takes of each batch.

        Raises:
            DhhpcError: a batch to be divided does not divide.
        """
        ranks = self.parallel.dealt(ranks)
        if self.parallel.batch == "multiply":
            return self.batch_size
        if self.batch_size % ranks:
            raise DhhpcError(
                f"batch_size {self.batch_size} with parallel.batch `divide` cannot be shared evenly by "
                f"{ranks} ranks; choose a multiple of {ranks}"
            )
        return self.batch_size // ranks


def read_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment in a YAML file, with paths made absolute.

    Args:
        path: of the file. Relative paths in it are relative to its folder, and `$NAME` and `~` are expanded.
        overrides: `key=value` with dotted keys and YAML values (`optimizer.learning_rate=0.1`); they win over
            the file, and paths in them are relative to the current folder.

    Raises:
        DhhpcError: a wrong key or value, in the file (with its line) or in an override.
    """
    experiment = read_document(path, Experiment)
    base = Path(path).resolve().parent
    experiment.data.shards = absolute(experiment.data.shards, base)
    experiment.output = absolute(experiment.output or Path("runs") / experiment.name, base)
    for override in overrides:
        experiment = with_override(experiment, override)
    experiment.data.shards = absolute(experiment.data.shards, Path.cwd())
    experiment.output = absolute(experiment.output or base / "runs" / experiment.name, Path.cwd())
    return experiment


def absolute(path: Path, base: Path) -> Path:
    """`path` from `base`, with variables expanded.

    Raises:
        DhhpcError: a variable is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise DhhpcError(f"{path}: a variable in this path is not set; set it or write the path out")
    return Path(os.path.normpath(base / expanded))


def with_override(experiment: Experiment, override: str) -> Experiment:
    """`experiment` with one `key=value`.

    Raises:
        DhhpcError: no such key, or a wrong value; names the key and the nearest right one.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise DhhpcError(f"--set {override}: give key=value, for example optimizer.learning_rate=0.01")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise DhhpcError(f"--set {override}: the value is not valid YAML; quote it") from None
    document = experiment.model_dump(exclude_unset=True, mode="json")
    *parents, last = key.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise DhhpcError(f"--set {override}: {parent} holds a value, no keys; set {parent} itself")
    node[last] = value
    try:
        return Experiment.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            known = known_keys(Experiment, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
            parts = key.split(".")
            right = ".".join([*parts[: parts.index(str(first["loc"][-1]))], *near])
            mend = f"did you mean `{right}`?" if near else f"it has {', '.join(known)}"
            raise DhhpcError(f"--set {override}: unknown key; {mend}") from None
        raise DhhpcError(f"--set {override}: {first['msg'].removeprefix('Value error, ')}") from None


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys at which two documents differ."""
    found: list[str] = []
    for key in sorted({*one, *other}):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(f"{prefix}{key}")
    return found
