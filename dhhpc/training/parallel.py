"""The methods by which ranks learn together, as an experiment chooses them: `parallel` in its file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, get_args

import pydantic

from dhhpc.documents import Document
from dhhpc.mpi import Compression, World, levels_of
from dhhpc.training import combinations, periods
from dhhpc.training.averaging import Averaging, GradientAveraging, PeriodicAveraging, SwitchedAveraging
from dhhpc.training.compression import CompressionChoice
from dhhpc.training.meeting import Meeting
from dhhpc.training.spatial import SpatialTraining
from dhhpc.training.two_level import TwoLevelAveraging

if TYPE_CHECKING:
    from dhhpc.eddl import Model


class Method(Document, ABC):
    """What all methods share.

    Attributes:
        batch: `multiply`: every rank takes `batch_size` samples, so the global batch grows with the ranks;
            `divide`: the ranks share `batch_size`.
        scale_learning_rate: with the ranks: `linear` (Goyal et al., 2017) or `square_root` (Krizhevsky,
            2014) for a global batch that grows; `schedule.warmup_epochs` eases it in.
        split: `equal`: every rank takes as much of a batch; `measured`: in proportion to its speed, measured
            before the first epoch, and again in each epoch, for ranks on unlike or busy nodes.
        compression: of what ranks send; see `CompressionChoice`.
        hierarchy: `flat`: sums are MPI's own, which may or may not heed what ranks share; `nodes`: ranks of a
            node combine in memory that they share, and one of them talks to other nodes (see `Hierarchy`).
        ranks_per_node: with `nodes`, so many ranks with neighbouring numbers combine in place of those that
            share memory, for instance those of a socket.
    """

    compresses: ClassVar[bool] = True
    sums_by_nodes: ClassVar[bool] = True

    batch: Literal["multiply", "divide"] = "multiply"
    scale_learning_rate: Literal["none", "linear", "square_root"] = "none"
    split: Literal["equal", "measured"] = "equal"
    compression: CompressionChoice | None = None
    hierarchy: Literal["flat", "nodes"] = "flat"
    ranks_per_node: pydantic.PositiveInt | None = None

    @pydantic.field_validator("compression")
    @classmethod
    def _check_compression(cls, value: CompressionChoice | None) -> CompressionChoice | None:
        if value is not None and not cls.compresses:
            name = cls.model_fields["method"].annotation
            raise ValueError(f"method {get_args(name)[0]} compresses nothing; leave compression out")
        return value

    @pydantic.field_validator("hierarchy")
    @classmethod
    def _check_hierarchy(cls, value: str, info: pydantic.ValidationInfo) -> str:
        if value == "nodes" and not cls.sums_by_nodes:
            raise ValueError("method two-level has one of its own; leave hierarchy out")
        if value == "nodes" and info.data.get("compression") is not None:
            raise ValueError("does not go with parallel.compression; leave one of them out")
        return value

    @pydantic.field_validator("ranks_per_node")
    @classmethod
    def _check_ranks_per_node(cls, value: int | None, info: pydantic.ValidationInfo) -> int | None:
        if value is not None and info.data.get("hierarchy") == "flat":
            raise ValueError("is of parallel.hierarchy: nodes; set that too, or leave this out")
        return value

    def compress(self) -> Compression | None:
        """How, if ranks do."""
        return None if self.compression is None else self.compression.create()

    def dealt(self, ranks: int) -> int:
        """Among how many the samples of a batch are dealt out: the ranks, or 1 if each gets all."""
        return ranks

    def learning_rate_factor(self, ranks: int) -> float:
        """What the experiment's learning rate is multiplied by."""
        count = self.dealt(ranks)
        return {"none": 1.0, "linear": float(count), "square_root": math.sqrt(count)}[
            self.scale_learning_rate
        ]

    def check(self, model: Model, ranks: int) -> None:
        """Refuse a built network with which the method does not work on so many ranks.

        Raises:
            DhhpcError: it does not.
        """

    @abstractmethod
    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        """The method on this rank."""


class Gradient(Method):
    """See `GradientAveraging`.

    Attributes:
        bucket_megabytes: gradients are sent in buckets of at least this size while the backward pass goes on;
            0 sends all of them after it.
        batch_normalization: `local`: every rank normalises by the statistics of its own part of a batch;
            `synchronised`: by those of all, in two more messages a layer and step. For parts of a few
            samples, and for results that do not depend on the number of ranks.
    """

    method: Literal["gradient"] = "gradient"
    bucket_megabytes: pydantic.NonNegativeFloat = 2.0
    batch_normalization: Literal["local", "synchronised"] = "local"

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        bucket_floats = math.ceil(self.bucket_megabytes * 2**20 / 4)
        synchronised = self.batch_normalization == "synchronised"
        return GradientAveraging(world, model, meeting, bucket_floats, synchronised, self.compress())


class Periodic(Method):
    """See `PeriodicAveraging`.

    Attributes:
        period: in batches; of the first epoch, or the shortest one, where it changes.
        optimizer_state: `average`, or `keep`: every rank has its own.
    """

    period: pydantic.PositiveInt = 8
    optimizer_state: Literal["average", "keep"] = "average"

    def choice(self) -> periods.Period:
        """How the period of each epoch is chosen."""
        return periods.Fixed(self.period)

    def combination(self, model: Model, ranks: int) -> combinations.Combination:
        return combinations.Combination(model)

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        averages_optimizer = self.optimizer_state == "average"
        combination = self.combination(model, world.size)
        return PeriodicAveraging(
            world, model, meeting, self.choice(), combination, averages_optimizer, self.compress()
        )


class FixedPeriod(Periodic):
    """`period` in batches."""

    method: Literal["fixed"]


class ChangingPeriod(Periodic):
    """A period, in batches, that changes every `every_epochs` between the first and the `longest`."""

    period: pydantic.PositiveInt = 1
    longest: pydantic.PositiveInt = 64
    every_epochs: pydantic.PositiveInt = 1

    @pydantic.model_validator(mode="after")
    def check_order(self) -> Self:
        if self.longest < self.period:
            raise ValueError(f"longest {self.longest} is below period {self.period}; raise it")
        return self


class IncreasingPeriod(ChangingPeriod):
    """See `periods.Increasing`."""

    method: Literal["increasing"]

    def choice(self) -> periods.Period:
        return periods.Increasing(self.period, self.longest, self.every_epochs)


class SawtoothPeriod(ChangingPeriod):
    """See `periods.Sawtooth`."""

    method: Literal["sawtooth"]

    def choice(self) -> periods.Period:
        return periods.Sawtooth(self.period, self.longest, self.every_epochs)


class NegativeSawtoothPeriod(ChangingPeriod):
    """See `periods.NegativeSawtooth`; `period` is the shortest."""

    method: Literal["negative-sawtooth"]

    def choice(self) -> periods.Period:
        return periods.NegativeSawtooth(self.period, self.longest, self.every_epochs)


class AutoTimePeriod(ChangingPeriod):
    """See `periods.AutoTime`.

    Attributes:
        gain: by which share of its time an epoch must get shorter for the doubled period to stay.
    """

    method: Literal["auto-time"]
    gain: float = pydantic.Field(default=0.05, gt=0, lt=1)

    def choice(self) -> periods.Period:
        return periods.AutoTime(self.period, self.longest, self.every_epochs, self.gain)


class LimitedOverhead(Periodic):
    """See `periods.LimitOverhead`.

    Attributes:
        period: of the first epoch, in batches.
        longest: the period is at most this.
        share: of the time that communication may take.
    """

    method: Literal["limit-overhead"]
    period: pydantic.PositiveInt = 1
    longest: pydantic.PositiveInt = 1024
    share: float = pydantic.Field(default=0.1, gt=0, lt=1)

    def choice(self) -> periods.Period:
        return periods.LimitOverhead(self.period, self.longest, self.share)


class LocalSGD(Periodic):
    """Gradients are averaged until `switch_epoch`; then parameters, every `period` batches.

    Attributes:
        warmup_epochs: after the switch, over which the period rises from 1.
    """

    method: Literal["local-sgd"]
    switch_epoch: pydantic.NonNegativeInt = 0
    warmup_epochs: pydantic.NonNegativeInt = 0

    def choice(self) -> periods.Period:
        return periods.SlowStart(self.period, self.switch_epoch, self.warmup_epochs)

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        first = Gradient(compression=self.compression).create(world, model, meeting)
        return SwitchedAveraging(first, super().create(world, model, meeting), self.switch_epoch)


class BlockMomentum(Periodic):
    """See `combinations.BlockMomentum`; every `period` batches.

    Attributes:
        momentum: of the steps from mean to mean; unless given 1 - 1/ranks.
        step: what a step is multiplied by.
        nesterov: whether ranks go on from where the momentum will take them.
    """

    method: Literal["block-momentum"]
    momentum: float | None = pydantic.Field(default=None, ge=0, lt=1)
    step: pydantic.PositiveFloat = 1.0
    nesterov: bool = True

    def combination(self, model: Model, ranks: int) -> combinations.Combination:
        momentum = 1 - 1 / ranks if self.momentum is None else self.momentum
        return combinations.BlockMomentum(model, momentum, self.step, self.nesterov)


class Elastic(Periodic):
    """See `combinations.Elastic`; every `period` batches.

    Attributes:
        moving_rate: of ranks towards the centre, times the number of ranks; 0.9 in the paper.
    """

    method: Literal["elastic"]
    moving_rate: float = pydantic.Field(default=0.9, gt=0, le=1)
    optimizer_state: Literal["average", "keep"] = "keep"

    def combination(self, model: Model, ranks: int) -> combinations.Combination:
        return combinations.Elastic(model, self.moving_rate / ranks, ranks)


class DiLoCo(Periodic):
    """See `combinations.OuterOptimizer`; every `period` batches, counted over the ends of epochs.

    Attributes:
        outer_learning_rate, outer_momentum: of the outer step; the paper's are 0.7 and 0.9.
    """

    method: Literal["diloco"]
    period: pydantic.PositiveInt = 100
    outer_learning_rate: pydantic.PositiveFloat = 0.7
    outer_momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    optimizer_state: Literal["average", "keep"] = "keep"

    def combination(self, model: Model, ranks: int) -> combinations.Combination:
        return combinations.OuterOptimizer(model, self.outer_learning_rate, self.outer_momentum)


class TwoLevel(Method):
    """See `TwoLevelAveraging`.

    Attributes:
        near_period: batches between two averagings in a group.
        period: batches between two averagings of all ranks; a multiple of `near_period`.
        ranks_per_group: as many ranks with neighbouring numbers are a group; those of a node unless given.
        optimizer_state: `average`, or `keep`: every rank has its own.
    """

    compresses = False
    sums_by_nodes = False

    method: Literal["two-level"]
    near_period: pydantic.PositiveInt = 2
    period: pydantic.PositiveInt = 16
    ranks_per_group: pydantic.PositiveInt | None = None
    optimizer_state: Literal["average", "keep"] = "average"

    @pydantic.model_validator(mode="after")
    def _check_periods(self) -> Self:
        if self.period % self.near_period:
            raise ValueError(f"period {self.period} is no multiple of near_period {self.near_period}")
        return self

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        levels = levels_of(world, self.ranks_per_group)
        averages_optimizer = self.optimizer_state == "average"
        return TwoLevelAveraging(
            world, model, meeting, levels, self.near_period, self.period, averages_optimizer
        )


class Spatial(Method):
    """See `SpatialTraining`. All ranks load the same samples, so the batch is that of the experiment."""

    compresses = False

    method: Literal["spatial"]
    batch: Literal["multiply"] = "multiply"
    scale_learning_rate: Literal["none"] = "none"
    split: Literal["equal"] = "equal"

    def dealt(self, ranks: int) -> int:
        return 1

    def check(self, model: Model, ranks: int) -> None:
        from dhhpc.eddl.spatial import check

        check(model, ranks)

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        return SpatialTraining(world, model, meeting)


Parallel = Annotated[
    Gradient
    | FixedPeriod
    | IncreasingPeriod
    | SawtoothPeriod
    | NegativeSawtoothPeriod
    | AutoTimePeriod
    | LimitedOverhead
    | LocalSGD
    | BlockMomentum
    | Elastic
    | DiLoCo
    | TwoLevel
    | Spatial,
    pydantic.Field(discriminator="method"),
]
