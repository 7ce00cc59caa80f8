"""How ranks learn together: one small class a method, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pydantic

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, average

if TYPE_CHECKING:
    from dhhpc.eddl import Model


class Meeting:
    """Where ranks wait for each other before they average, and agree on what one of them has to say.

    One message of two numbers serves as the barrier that separates waiting from communication, passes on a
    request to stop (a signal may reach one rank only), and stops all ranks when one has met a loss that is
    no number, before it is averaged into the others.

    Attributes:
        stop_requested: set by this rank.
        stop_agreed: set on every rank by the first meeting after a request.
        trouble: set by a rank that cannot go on; one line.
        wait_seconds: spent waiting for other ranks; part of the world's `seconds`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.stop_requested = False
        self.stop_agreed = False
        self.trouble: str | None = None
        self.wait_seconds = 0.0

    def meet(self) -> None:
        """Wait for all ranks.

        Raises:
            DhhpcError: a rank is in trouble; the same line on every rank.
        """
        flags = np.array([self.stop_requested, self.trouble is not None], dtype=np.int64)
        if self.world.size > 1:
            before = self.world.seconds
            self.world.allreduce_max(flags)
            self.wait_seconds += self.world.seconds - before
        if flags[1]:
            raise DhhpcError(next(line for line in self.world.allgather_object(self.trouble) if line))
        self.stop_agreed = bool(flags[0])


class Averaging(ABC):
    """What a method does between the batches of one rank.

    Where gradients are averaged, each rank calls `after_gradients` for every global batch once its gradients
    are there (also when its part of the batch was empty), and then updates its parameters. Else it trains on
    its part, if there is one, and calls `after_gradients` too. Both then call `after_batch`.

    Attributes:
        averages_gradients: whether the gradients are needed before the step.
    """

    averages_gradients = False

    def __init__(self, world: World, model: Model, meeting: Meeting) -> None:
        self.world, self.model, self.meeting = world, model, meeting

    @abstractmethod
    def after_gradients(self, samples: int, global_samples: int) -> None:
        """This rank has the gradients of its `samples` of the batch's `global_samples`."""

    @abstractmethod
    def after_batch(self, samples: int, global_samples: int) -> bool:
        """This rank has made its step; whether all ranks now hold the same parameters and state."""

    @abstractmethod
    def end_of_epoch(self) -> None:
        """Leave all ranks with the same parameters, batch-norm statistics and optimizer state."""


class GradientAveraging(Averaging):
    """Gradients are averaged before every step, weighted by samples: N ranks with batches of b make the
    steps of one rank with batches of N b. Batch-norm statistics are averaged after it."""

    def __init__(self, world: World, model: Model, meeting: Meeting) -> None:
        super().__init__(world, model, meeting)
        self.averages_gradients = world.size > 1

    def after_gradients(self, samples: int, global_samples: int) -> None:
        self.meeting.meet()
        if self.averages_gradients:
            if samples == 0:
                self.model.gradient_vector.fill(0)
            average(self.world, [self.model.gradient_vector], samples, global_samples)

    def after_batch(self, samples: int, global_samples: int) -> bool:
        average(self.world, [self.model.statistics_vector], samples, global_samples)
        return True

    def end_of_epoch(self) -> None:
        self.meeting.meet()


class FixedPeriodAveraging(Averaging):
    """Each rank steps alone; every `period` batches and at the end of an epoch parameters, batch-norm
    statistics and optimizer state are averaged, weighted by the samples that each rank has seen since the
    last time.

    EDDL's method FIXED; local SGD (Stich, 2019).
    """

    def __init__(self, world: World, model: Model, meeting: Meeting, period: int) -> None:
        super().__init__(world, model, meeting)
        self.period = period
        self.batches = 0
        self.samples = 0
        self.global_samples = 0

    def after_gradients(self, samples: int, global_samples: int) -> None:
        pass

    def after_batch(self, samples: int, global_samples: int) -> bool:
        self.batches += 1
        self.samples += samples
        self.global_samples += global_samples
        if self.batches == self.period:
            self.meeting.meet()
            self.average_all()
        elif self.world.size == 1:
            self.meeting.meet()
            return True
        return self.batches == 0

    def end_of_epoch(self) -> None:
        self.meeting.meet()
        if self.batches:
            self.average_all()

    def average_all(self) -> None:
        optimizer = self.model.optimizer
        state = optimizer.state_vector if optimizer is not None else np.empty(0, np.float32)
        vectors = [self.model.parameter_vector, self.model.statistics_vector, state]
        average(self.world, vectors, self.samples, self.global_samples)
        self.batches = self.samples = self.global_samples = 0


class Method(Document):
    """What all methods share.

    Attributes:
        batch: `multiply`: every rank takes `batch_size` samples, so the global batch grows with the ranks;
            `divide`: the ranks share `batch_size`.
    """

    batch: Literal["multiply", "divide"] = "multiply"


class Gradient(Method):
    """See `GradientAveraging`."""

    method: Literal["gradient"] = "gradient"

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        return GradientAveraging(world, model, meeting)


class FixedPeriod(Method):
    """See `FixedPeriodAveraging`; `period` in batches."""

    method: Literal["fixed"]
    period: pydantic.PositiveInt = 8

    def create(self, world: World, model: Model, meeting: Meeting) -> Averaging:
        return FixedPeriodAveraging(world, model, meeting, self.period)


Parallel = Annotated[Gradient | FixedPeriod, pydantic.Field(discriminator="method")]
