"""A simulation of training: the trainer's schedule, step by step in time, for all ranks at once.

Each rank has a clock. A step moves it by what the rank computes, with drawn jitter; where ranks meet, all
clocks go to that of the last one and on by what the collective takes. So waiting is no formula but comes out:
the more ranks, the later the last of them. What it is told of pace and network is the subject of
`dhhpc.scaling.forecasts.calibration` and `dhhpc.scaling.forecasts.network`.

With a backward pass over which B buckets of gradients become ready one after the other, bucket b of a rank
whose pass begins at t and takes w seconds is there at t + w (b + 1) / B, and is sent once all ranks have it
and the bucket before is through (Li et al., 2020, "PyTorch Distributed", section 3.2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dhhpc.scaling.forecasts.jitter import Jitter
from dhhpc.scaling.forecasts.plan import Meetings, Plan, Step

Array = np.ndarray[Any, Any]

# Of forward and backward together: each matrix product of the forward pass has two in the backward pass.
BACKWARD = 2 / 3


@dataclass(frozen=True)
class Pace:
    """What a rank takes, in seconds.

    Attributes:
        sample: for a training sample.
        step: for a step beside its samples.
        data: the part of both in which it waits for data.
        other: for a step, what is neither computing nor meeting.
        image: for an image of the validation split.
        epoch: for an epoch beside batches, validation and checkpoint.
        checkpoint: for which a checkpoint stops training beside what is copied.
    """

    sample: float
    step: float = 0.0
    data: float = 0.0
    other: float = 0.0
    image: float = 0.0
    epoch: float = 0.0
    checkpoint: float = 0.0


@dataclass
class EpochTimes:
    """Where the time of an epoch went, in seconds.

    Attributes:
        data, compute, communication, wait: of each rank, (ranks,) float64; waiting is that for later ranks.
        batches_seconds: from the first batch to the last meeting, as `seconds` of a run's record.
        validation, checkpoint: that all ranks take together.
        other: what is none of these.
        period, averagings: as in a run's record.
    """

    data: Array
    compute: Array
    communication: Array
    wait: Array
    batches: int
    period: int
    averagings: int = 0
    batches_seconds: float = 0.0
    validation: float = 0.0
    checkpoint: float = 0.0
    other: float = 0.0

    @property
    def seconds(self) -> float:
        return self.batches_seconds + self.validation + self.checkpoint

    def record(self) -> dict[str, Any]:
        """What periods are chosen by, see `dhhpc.training.periods.Period`."""
        columns = zip(self.data, self.compute, self.communication, strict=True)
        return {
            "period": self.period,
            "averagings": self.averagings,
            "seconds": self.batches_seconds,
            "batches": self.batches,
            "ranks": [{"data": d, "compute": c, "communication": m} for d, c, m in columns],
        }

    def times(self, factor: float) -> EpochTimes:
        """The epoch with so many times the batches."""
        scaled = {name: getattr(self, name) * factor for name in ("data", "compute", "communication", "wait")}
        return replace(
            self,
            **scaled,
            batches=round(self.batches * factor),
            averagings=round(self.averagings * factor),
            batches_seconds=self.batches_seconds * factor,
            other=self.other * factor,
        )


@dataclass
class Ranks:
    """The clocks of all ranks, in seconds since the epoch's first batch.

    Attributes:
        batches, near_batches: since the last averaging of all, and of groups.
    """

    plan: Plan
    pace: Pace
    jitter: Jitter
    meetings: Meetings
    overlap: float
    random: np.random.Generator
    factors: Array
    times: EpochTimes
    clock: Array
    batches: int = 0
    near_batches: int = 0
    groups: Array = field(default_factory=lambda: np.zeros(0, int))

    def batch(self, samples: Array) -> None:
        """One batch, of which each rank takes some samples."""
        seconds = np.where(samples > 0, self.pace.step + self.pace.sample * samples, 0.0) * self.factors
        seconds *= self.jitter.steps(self.random, len(seconds))
        data, compute = self.pace.data * seconds, (1 - self.pace.data) * seconds
        self.times.data += data
        self.times.compute += compute
        self.times.other += self.pace.other
        self.clock += data
        self.clock += self.pace.other
        if self.plan.ranks == 1:
            self.clock += compute
            self.times.averagings += self.meetings.gradients
        elif self.meetings.gradients:
            self.step_together(compute)
        else:
            self.clock += compute
            self.batches += 1
            self.near_batches += 1
            if self.batches >= self.times.period:
                self.meet()
                self.average()
            elif self.near_batches >= self.meetings.near_period > 0:
                self.average_groups()

    def step_together(self, compute: Array) -> None:
        """Forward and backward, gradients added up on the way, and the meeting behind it."""
        meetings, buckets = self.meetings, self.meetings.buckets
        backward = BACKWARD * compute
        forward_ends = self.clock + compute - backward
        # What of a sum does not go on by itself takes the core of each rank.
        hidden = self.overlap if meetings.overlaps else 0.0
        busy = (1 - hidden) * sum(buckets) if meetings.overlaps else 0.0
        arrived = 0.0
        if meetings.overlaps:
            for number, seconds in enumerate(buckets, start=1):
                ready = float((forward_ends + backward * (number / len(buckets))).max())
                arrived = max(arrived, ready) + hidden * seconds
        self.clock += compute + busy
        self.times.communication += busy
        self.meet()
        met = float(self.clock[0])
        ends = max(met, arrived) if meetings.overlaps else met + sum(buckets)
        self.communicate(ends - met + meetings.average)
        self.times.averagings += 1

    def meet(self) -> None:
        """All wait for the last, and for the few numbers of a meeting."""
        if self.plan.ranks == 1:
            return
        self.synchronise(self.meetings.meeting)

    def synchronise(self, seconds: float) -> None:
        arrives = float(self.clock.max()) + seconds
        self.times.wait += arrives - self.clock
        self.clock[:] = arrives

    def communicate(self, seconds: float) -> None:
        self.clock += seconds
        self.times.communication += seconds

    def average_groups(self) -> None:
        """Each group waits for its last rank."""
        last = np.maximum.reduceat(self.clock, self.groups)
        sizes = np.diff(np.r_[self.groups, len(self.clock)])
        arrives = np.repeat(last, sizes)
        self.times.wait += arrives - self.clock
        self.clock[:] = arrives
        self.communicate(self.meetings.near)
        self.near_batches = 0

    def average(self) -> None:
        """All have met."""
        if self.meetings.near_period:
            self.communicate(self.meetings.near)
        self.communicate(self.meetings.average)
        self.batches = self.near_batches = 0
        self.times.averagings += 1

    def end(self, last: bool) -> None:
        """The end of an epoch's batches."""
        if self.plan.ranks > 1:
            self.meet()
            if not self.meetings.gradients and self.batches and (last or self.meetings.ends):
                self.average()
            self.communicate(self.meetings.meeting)  # losses and metrics are added up
        self.times.batches_seconds = float(self.clock.max()) + self.pace.epoch
        self.times.other += self.pace.epoch


class Simulation:
    """A run, epoch after epoch.

    Args:
        overlap: see `dhhpc.scaling.forecasts.network.Machine.overlap`.
        seed: the same gives the same times.
        most_batches: of an epoch with more, so many are simulated, and their times multiplied.

    Attributes:
        history: the epochs so far, as what chooses periods reads them.
    """

    def __init__(
        self,
        plan: Plan,
        pace: Pace,
        jitter: Jitter,
        overlap: float = 1.0,
        seed: int = 1,
        most_batches: int | None = None,
    ) -> None:
        # Who waits for nobody takes the mean, by whatever it deviates.
        self.jitter = jitter if plan.ranks > 1 else Jitter()
        self.plan, self.pace, self.overlap = plan, pace, overlap
        self.random = np.random.default_rng([seed, plan.ranks])
        self.factors = self.jitter.ranks(self.random, plan.ranks)
        self.most_batches = most_batches
        self.history: list[dict[str, Any]] = []
        # A checkpoint on its way has so many seconds to go.
        self.writing = 0.0
        # Ends of epochs between which nothing was averaged.
        self.batches_left = 0

    def epoch(self, last: bool = False) -> EpochTimes:
        """The next epoch."""
        plan, number = self.plan, len(self.history)
        meetings = plan.meetings_of(number)
        steps, factor = self.shortened()
        zeros = np.zeros(plan.ranks)
        times = EpochTimes(
            data=zeros.copy(),
            compute=zeros.copy(),
            communication=zeros.copy(),
            wait=zeros.copy(),
            batches=sum(step.count for step in steps),
            period=meetings.period.batches(number, self.history),
        )
        factors = self.factors * self.jitter.epochs(self.random, plan.ranks)
        ranks = Ranks(
            plan,
            replace(self.pace, epoch=self.pace.epoch / factor),
            self.jitter,
            meetings,
            self.overlap,
            self.random,
            factors,
            times,
            zeros,
            batches=self.batches_left,
            groups=np.arange(0, plan.ranks, meetings.group),
        )
        for step in steps:
            for _ in range(step.count):
                ranks.batch(step.samples)
        ranks.end(last)
        self.batches_left = ranks.batches
        times = times if factor == 1.0 else times.times(factor)
        self.validate(times, factors)
        self.save(times, last)
        self.history.append(times.record())
        return times

    def shortened(self) -> tuple[Sequence[Step], float]:
        """The steps to simulate, and of how many times as many they stand."""
        batches = self.plan.batches
        if self.most_batches is None or batches <= self.most_batches:
            return self.plan.steps, 1.0
        whole = self.plan.steps[0]
        samples = sum(step.count * int(step.samples.sum()) for step in self.plan.steps)
        factor = samples / (self.most_batches * int(whole.samples.sum()))
        return [Step(self.most_batches, whole.samples)], factor

    def validate(self, times: EpochTimes, factors: Array) -> None:
        """Each rank has its part of the images, and all wait for the last."""
        seconds = self.pace.image * self.plan.images * factors
        # The noise of single images averages out.
        times.validation = float(seconds.max())
        if self.plan.ranks > 1:
            times.validation += self.plan.meetings.meeting

    def save(self, times: EpochTimes, last: bool) -> None:
        """A checkpoint where one is due; it waits for the one before, and the last one for itself."""
        saving = self.plan.saving
        self.writing = max(0.0, self.writing - times.batches_seconds - times.validation)
        if last or (len(self.history) + 1) % saving.every_epochs == 0:
            times.checkpoint = self.writing + saving.pause + self.pace.checkpoint
            self.writing = saving.write
            if last or not saving.asynchronous:
                times.checkpoint += self.writing
                self.writing = 0.0
