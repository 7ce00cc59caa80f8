"""The methods by which ranks learn together, as an experiment chooses them: `parallel` in its file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

import pydantic

from dhhpc.mpi import World, levels_of
from dhhpc.training import combinations, periods
from dhhpc.training.averaging import Averaging, GradientAveraging, PeriodicAveraging, SwitchedAveraging
from dhhpc.training.meeting import Meeting
from dhhpc.training.method import Method
from dhhpc.training.spatial import SpatialTraining
from dhhpc.training.two_level import TwoLevelAveraging

if TYPE_CHECKING:
    from dhhpc.eddl import Model

# Momentum of 0.9 remembers 10 outer steps: of the paper's 128 (64,000 batches, one every 500) one in 12.8.
# Where it remembers more of the run, it still carries the model on when the learning rate has gone to 0.
OUTER_MEMORY = 12.8


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

    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
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

    def combination(self, model: Model, ranks: int, batches: int) -> combinations.Combination:
        """What becomes of parameters at a meeting; batches: of the whole run."""
        return combinations.Combination(model)

    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
        averages_optimizer = self.optimizer_state == "average"
        combination = self.combination(model, world.size, batches)
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

    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
        first = Gradient(compression=self.compression).create(world, model, meeting, batches)
        return SwitchedAveraging(first, super().create(world, model, meeting, batches), self.switch_epoch)


class BlockMomentum(Periodic):
    """See `combinations.BlockMomentum`; every `period` batches.

    Attributes:
        momentum: of the steps from mean to mean; unless given 1 - 1/ranks.
        step: what a step is multiplied by. In the long run the mean moves step / (1 - momentum) times as far
            as it would by itself (Chen and Huo, 2016, section 2.2: as many times as there are ranks). Unless
            given that is `growth`, so 1 where momentum is not given and every rank takes `batch_size`.
        nesterov: whether ranks go on from where the momentum will take them.
    """

    method: Literal["block-momentum"]
    momentum: float | None = pydantic.Field(default=None, ge=0, lt=1)
    step: pydantic.PositiveFloat | None = None
    nesterov: bool = True

    def combination(self, model: Model, ranks: int, batches: int) -> combinations.Combination:
        momentum = 1 - 1 / ranks if self.momentum is None else self.momentum
        step = self.growth(ranks) * (1 - momentum) if self.step is None else self.step
        return combinations.BlockMomentum(model, momentum, step, self.nesterov)


class Elastic(Periodic):
    """See `combinations.Elastic`; every `period` batches.

    Attributes:
        moving_rate: of ranks towards the centre, times the number of ranks; 0.9 in the paper.
    """

    method: Literal["elastic"]
    moving_rate: float = pydantic.Field(default=0.9, gt=0, le=1)
    optimizer_state: Literal["average", "keep"] = "keep"

    def combination(self, model: Model, ranks: int, batches: int) -> combinations.Combination:
        return combinations.Elastic(model, self.moving_rate / ranks, ranks)


class DiLoCo(Periodic):
    """See `combinations.OuterOptimizer`; every `period` batches, counted over the ends of epochs.

    Attributes:
        outer_learning_rate: of the outer step; 0.7 in the paper. Unless given that, but more in a run of so
            few outer steps that the model would stay behind the ranks.
        outer_momentum: of the outer step; 0.9 in the paper, with 8 ranks. Unless given, what moves `growth`
            times as far as the ranks did, in the long run, but at most 0.9, and less in a run of few outer
            steps: see `OUTER_MEMORY`.
    """

    method: Literal["diloco"]
    period: pydantic.PositiveInt = 100
    outer_learning_rate: pydantic.PositiveFloat | None = None
    outer_momentum: float | None = pydantic.Field(default=None, ge=0, lt=1)
    optimizer_state: Literal["average", "keep"] = "keep"

    def combination(self, model: Model, ranks: int, batches: int) -> combinations.Combination:
        rate, momentum = self.outer_learning_rate, self.outer_momentum
        if momentum is None:
            remembered = 1 - OUTER_MEMORY * self.period / batches
            momentum = max(0.0, min(0.9, 1 - (rate or 0.7) / self.growth(ranks), remembered))
        return combinations.OuterOptimizer(model, rate or max(0.7, 1 - momentum), momentum)


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

    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
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

    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
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
