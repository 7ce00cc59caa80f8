"""How ranks learn together: by gradients before every step, or by parameters after some."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.eddl.state import state_views
from dhhpc.errors import DhhpcError
from dhhpc.mpi import CompressedSum, Compression, Pending, World, average
from dhhpc.training.combinations import Array, Combination
from dhhpc.training.compression import CompressedMean
from dhhpc.training.meeting import Meeting
from dhhpc.training.periods import History, Period

if TYPE_CHECKING:
    from dhhpc.eddl import Model

COUNTERS = "averaging/counters"
# What compression has left over, of which only the sum over the ranks matters.
UNSENT_GRADIENTS, UNSENT_PARAMETERS = "averaging/unsent gradients", "averaging/unsent parameters"


class Averaging(ABC):
    """What a method does between the batches of one rank.

    Where gradients are averaged, each rank calls `after_gradients` for every global batch once its gradients
    are there (also when its part of the batch was empty), and then updates its parameters. Else it trains on
    its part, if there is one, and calls `after_gradients` too. Both then call `after_batch`.

    Attributes:
        averages_gradients: whether the gradients are needed before the step, in this epoch.
        computes_together: whether ranks hear of each other while they compute, so that one whose part of a
            batch is empty must compute too, on anything.
        network: what computes: the model, or this rank's part of it where `cuts_images`.
        cuts_images: whether every rank has its rows of every image, and so of each sample of a batch.
        period: batches from one averaging to the next, in this epoch.
        averagings: how many there were in this epoch.
    """

    averages_gradients = False
    computes_together = False
    cuts_images = False

    def __init__(self, world: World, model: Model, meeting: Meeting) -> None:
        self.world, self.model, self.meeting = world, model, meeting
        self.network = model
        self.period, self.averagings = 1, 0

    def begin(self) -> None:  # noqa: B027 - most methods have nothing to do
        """All ranks hold the same model: at the start, and when a run is taken up."""

    def begin_epoch(self, epoch: int, history: History) -> None:
        """An epoch, from 0, or the rest of one; history: the records of those before."""
        self.averagings = 0

    def share_of(self, array: Array) -> Array:
        """What `network` takes of the images or targets of a batch."""
        return array

    def while_computing(self, samples: int, global_samples: int) -> Callable[[int], None] | None:
        """What hears, during the backward pass, from where on the gradients are there."""
        return None

    @abstractmethod
    def after_gradients(self, samples: int, global_samples: int) -> None:
        """This rank has the gradients of its `samples` of the batch's `global_samples`."""

    @abstractmethod
    def after_batch(self, samples: int, global_samples: int) -> bool:
        """This rank has made its step; whether the ranks have met, so that a checkpoint may be written."""

    @abstractmethod
    def end_of_epoch(self, last: bool) -> None:
        """The ranks meet. After the last epoch all must hold the same model."""

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """While inside, the model is the one that all ranks have agreed upon, alike on all of them."""
        yield

    def remembered(self) -> dict[str, Array]:
        """By name, the arrays that go into a checkpoint beside the model, alike on all ranks."""
        return {}

    def own_state(self) -> dict[str, Array]:
        """What goes into a checkpoint for this rank alone, in place of what has been agreed upon: the same
        names and shapes on all ranks, not copied."""
        return {}

    def load_own_state(self, state: dict[str, Array]) -> None:
        """Take over what `own_state` returned."""
        self.model.load_state(self.model.state() | state)


class GradientAveraging(Averaging):
    """Gradients are averaged before every step, weighted by samples: N ranks with batches of b make the
    steps of one rank with batches of N b. Batch-norm statistics are averaged after it, or are those of the
    batches of all ranks from the start.

    Each bucket of gradients, from the last layer to the first, is sent as soon as it is there, while the
    backward pass goes on (Li et al., 2020, "PyTorch Distributed", section 3.2.3).

    Args:
        bucket_floats: gradients of a bucket, at least; 0 to send all of them after the backward pass.
        synchronised: batch normalisation takes the statistics of all ranks' batches.
        compression: of each bucket.
    """

    def __init__(
        self,
        world: World,
        model: Model,
        meeting: Meeting,
        bucket_floats: int,
        synchronised: bool = False,
        compression: Compression | None = None,
    ) -> None:
        super().__init__(world, model, meeting)
        self.averages_gradients = world.size > 1
        self.computes_together = synchronised and world.size > 1
        if self.computes_together:
            model.sum_over_ranks.add = world.allreduce_sum
        self.overlaps = bucket_floats > 0
        # The same on all ranks, whatever happens on one of them.
        size = model.gradient_vector.size
        buckets = max(1, size // bucket_floats) if self.overlaps else 1
        self.edges = [size * number // buckets for number in range(buckets + 1)]
        self.unsent = buckets
        self.pending: deque[Pending] = deque()
        self.compressed: CompressedSum | None = None
        if compression is not None and world.size > 1:
            self.compressed = CompressedSum(world, size, compression)

    def begin(self) -> None:
        if self.compressed is not None:
            self.compressed.unsent.fill(0)

    def while_computing(self, samples: int, global_samples: int) -> Callable[[int], None] | None:
        share = samples / global_samples
        self.model.sum_over_ranks.share = share
        if not self.overlaps or not samples:
            return None

        def completed(start: int) -> None:
            self._send_from(start, share)
            while self.pending and self.pending[0].arrived():
                self.pending.popleft()

        return completed

    def after_gradients(self, samples: int, global_samples: int) -> None:
        if not self.averages_gradients:
            self.meeting.meet()
            return
        if samples == 0:
            self.model.gradient_vector.fill(0)
        if self.overlaps:
            # A rank in trouble sends too, so that all learn of it at the meeting and none waits for ever.
            self._send_from(0, samples / global_samples)
            try:
                self.meeting.meet()
            except DhhpcError:  # on all ranks alike; MPI may not write into what has gone with the run
                self._receive()
                raise
        else:
            self.meeting.meet()
            self._send_from(0, samples / global_samples)
        self._receive()
        self.unsent = len(self.edges) - 1

    def _receive(self) -> None:
        while self.pending:
            self.pending.popleft().wait()

    def _send_from(self, start: int, share: float) -> None:
        """Send the buckets that lie behind a place in the gradients and have not been sent."""
        while self.unsent and self.edges[self.unsent - 1] >= start:
            self.unsent -= 1
            first = self.edges[self.unsent]
            bucket = self.model.gradient_vector[first : self.edges[self.unsent + 1]]
            np.multiply(bucket, np.float32(share), out=bucket)
            if self.compressed is None:
                self.pending.append(self.world.begin_sum(bucket))
            else:
                self.pending.append(self.compressed.begin(bucket, first))

    def after_batch(self, samples: int, global_samples: int) -> bool:
        if not self.computes_together:
            average(self.world, [self.model.statistics_vector], samples, global_samples)
        self.averagings += 1
        return True

    def end_of_epoch(self, last: bool) -> None:
        self.meeting.meet()

    def own_state(self) -> dict[str, Array]:
        return {} if self.compressed is None else {UNSENT_GRADIENTS: self.compressed.unsent}

    def load_own_state(self, state: dict[str, Array]) -> None:
        if self.compressed is not None and UNSENT_GRADIENTS in state:
            self.compressed.unsent[:] = state[UNSENT_GRADIENTS]
        super().load_own_state(state)


class PeriodicAveraging(Averaging):
    """Each rank steps alone; every `period` batches the ranks combine their parameters and average batch-norm
    statistics and, unless each keeps its own, the optimizer's state, weighted by the samples that each rank
    has seen since the last time.

    They do so at the end of an epoch too, unless the combination tells what they have agreed upon before.

    Local SGD (Stich, 2019).

    Args:
        compression: of the way that the parameters have gone.
    """

    def __init__(
        self,
        world: World,
        model: Model,
        meeting: Meeting,
        choice: Period,
        combination: Combination,
        averages_optimizer: bool,
        compression: Compression | None = None,
    ) -> None:
        super().__init__(world, model, meeting)
        self.choice, self.combination = choice, combination
        self.averages_optimizer = averages_optimizer
        self.batches = self.samples = self.global_samples = 0
        self.compressed: CompressedMean | None = None
        if compression is not None and world.size > 1:
            self.compressed = CompressedMean(world, model, compression, combination.ranks_differ)

    def begin(self) -> None:
        self.combination.begin()
        if self.compressed is not None:
            self.compressed.begin()
        self.batches = self.samples = self.global_samples = 0

    def begin_epoch(self, epoch: int, history: History) -> None:
        super().begin_epoch(epoch, history)
        # Times differ between ranks, so one of them decides.
        self.period = self.world.broadcast_object(self.choice.batches(epoch, history))

    def after_gradients(self, samples: int, global_samples: int) -> None:
        pass

    def after_batch(self, samples: int, global_samples: int) -> bool:
        self.batches += 1
        self.samples += samples
        self.global_samples += global_samples
        if self.batches >= self.period:
            self.meeting.meet()
            self.average_all()
            return True
        return False

    def end_of_epoch(self, last: bool) -> None:
        self.meeting.meet()
        agreed = self.combination.agreed
        if self.batches and (last or agreed is None):
            self.average_all()
        if last and agreed is not None:
            self.model.parameter_vector[:], self.model.statistics_vector[:] = agreed

    def average_all(self) -> None:
        vectors = [self.model.statistics_vector]
        if self.averages_optimizer and self.model.optimizer is not None:
            vectors.append(self.model.optimizer.state_vector)
        average(self.world, vectors, self.samples, self.global_samples)
        self.combination.combine(self._average)
        if self.compressed is not None:
            self.compressed.starts()
        self.batches = self.samples = self.global_samples = 0
        self.averagings += 1

    def _average(self, vector: Array) -> None:
        if self.compressed is None:
            average(self.world, [vector], self.samples, self.global_samples)
        else:
            self.compressed.average(vector, self.samples / self.global_samples)

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """The combination's, or else the mean of what the ranks hold by now."""
        agreed = self.combination.agreed
        if agreed is None and not self.batches:
            yield
            return
        held = [self.model.parameter_vector, self.model.statistics_vector]
        own = [vector.copy() for vector in held]
        if agreed is None:
            average(self.world, held, self.samples, self.global_samples)
        else:
            for vector, value in zip(held, agreed, strict=True):
                vector[:] = value
        try:
            yield
        finally:
            for vector, kept in zip(held, own, strict=True):
                vector[:] = kept

    def remembered(self) -> dict[str, Array]:
        if self.compressed is None or self.compressed.reference is None:
            return self.combination.remembered
        return self.combination.remembered | {"reference": self.compressed.reference}

    def own_state(self) -> dict[str, Array]:
        counters = np.array([self.batches, self.samples, self.global_samples], np.int64)
        own: dict[str, Array] = {COUNTERS: counters} if self.batches else {}
        if self.compressed is not None:
            own[UNSENT_PARAMETERS] = self.compressed.sum.unsent
        if self.world.size == 1 and self.combination.agreed is None:
            return own  # the model is what has been agreed upon
        if self.batches or self.combination.ranks_differ:
            return own | state_views(self.model)
        if not self.averages_optimizer and self.model.optimizer is not None:
            own["optimizer/state"] = self.model.optimizer.state_vector
        return own

    def load_own_state(self, state: dict[str, Array]) -> None:
        if self.compressed is not None and UNSENT_PARAMETERS in state:
            self.compressed.sum.unsent[:] = state[UNSENT_PARAMETERS]
        if COUNTERS in state:
            self.batches, self.samples, self.global_samples = map(int, state[COUNTERS])
        super().load_own_state(state)


class SwitchedAveraging(Averaging):
    """One method in the first epochs, then another. Post-local SGD (Lin et al., 2020) where the first one
    averages gradients."""

    def __init__(self, first: Averaging, then: Averaging, switch_epoch: int) -> None:
        super().__init__(first.world, first.model, first.meeting)
        self.first, self.then, self.switch_epoch = first, then, switch_epoch
        self.current = first

    def begin(self) -> None:
        self.first.begin()
        self.then.begin()

    def begin_epoch(self, epoch: int, history: History) -> None:
        self.current = self.first if epoch < self.switch_epoch else self.then
        self.current.begin_epoch(epoch, history)
        self.averages_gradients = self.current.averages_gradients
        self.period = self.current.period

    def while_computing(self, samples: int, global_samples: int) -> Callable[[int], None] | None:
        return self.current.while_computing(samples, global_samples)

    def after_gradients(self, samples: int, global_samples: int) -> None:
        self.current.after_gradients(samples, global_samples)

    def after_batch(self, samples: int, global_samples: int) -> bool:
        met = self.current.after_batch(samples, global_samples)
        self.averagings = self.current.averagings
        return met

    def end_of_epoch(self, last: bool) -> None:
        self.current.end_of_epoch(last)
        self.averagings = self.current.averagings
        if self.current is not self.then:
            self.then.begin()  # in case the switch is next

    def remembered(self) -> dict[str, Array]:
        return self.then.remembered()

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        with self.current.agreed():
            yield

    def own_state(self) -> dict[str, Array]:
        return self.current.own_state()

    def load_own_state(self, state: dict[str, Array]) -> None:
        self.first.load_own_state(state)
        self.then.load_own_state(state)
