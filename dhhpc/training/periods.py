"""How many batches ranks train alone between two averagings: EDDL's six ways, and a slow start.

A period is a function of the epoch's number and of the records of the epochs before it, so that a resumed run
goes on as it would have. Where times decide, two runs of the same experiment may differ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

History = Sequence[Mapping[str, Any]]


class Period(ABC):
    """One way to choose the period."""

    @abstractmethod
    def batches(self, epoch: int, history: History) -> int:
        """The period of an epoch, at least 1.

        Args:
            epoch: its number, from 0.
            history: the records of the epochs before, each with `period`, `averagings`, `seconds` and a
                mapping of seconds for every rank.
        """


class Fixed(Period):
    """Always the same. EDDL's FIXED."""

    def __init__(self, period: int) -> None:
        self.period = period

    def batches(self, epoch: int, history: History) -> int:
        return self.period


class SlowStart(Period):
    """1 at first, rising in a line over the first epochs, then always the same.

    The warm-up of local SGD (Lin et al., 2020, "Don't use large mini-batches, use local SGD", section 5).
    """

    def __init__(self, period: int, first_epoch: int, epochs: int) -> None:
        self.period, self.first_epoch, self.epochs = period, first_epoch, epochs

    def batches(self, epoch: int, history: History) -> int:
        if epoch >= self.first_epoch + self.epochs:
            return self.period
        return max(1, self.period * (epoch - self.first_epoch) // self.epochs)


class Increasing(Period):
    """Doubled every so many epochs, up to the longest. EDDL's AVG_INC."""

    def __init__(self, period: int, longest: int, every_epochs: int) -> None:
        self.period, self.longest, self.every_epochs = period, longest, every_epochs

    def batches(self, epoch: int, history: History) -> int:
        return int(min(self.period * 2 ** min(epoch // self.every_epochs, 62), self.longest))


class Sawtooth(Period):
    """Doubled every so many epochs, and after the longest short again. EDDL's SAWTOOTH, whose code never
    came back to the shortest."""

    def __init__(self, shortest: int, longest: int, every_epochs: int) -> None:
        self.every_epochs = every_epochs
        self.periods = doublings(shortest, longest)

    def batches(self, epoch: int, history: History) -> int:
        return self.periods[epoch // self.every_epochs % len(self.periods)]


class NegativeSawtooth(Sawtooth):
    """Halved every so many epochs, and after the shortest long again. EDDL's NEG_SAWTOOTH, which did
    nothing in its code."""

    def __init__(self, shortest: int, longest: int, every_epochs: int) -> None:
        super().__init__(shortest, longest, every_epochs)
        self.periods.reverse()


class AutoTime(Period):
    """Doubled as long as that makes epochs shorter by a share, else one step back. EDDL's AUTO_TIME.

    The shortest period that trains about as fast as longer ones learns best.
    """

    def __init__(self, period: int, longest: int, every_epochs: int, gain: float) -> None:
        self.period, self.longest = period, longest
        self.every_epochs, self.gain = every_epochs, gain

    def batches(self, epoch: int, history: History) -> int:
        if not history:
            return self.period
        now = int(history[-1]["period"])
        if sum(record["period"] == now for record in history) < self.every_epochs:
            return now
        # A period that did not gain is left, and not tried again.
        if now > self.period and not self._gains(history, now):
            return now // 2
        tried = any(record["period"] == 2 * now for record in history)
        return now if tried or 2 * now > self.longest else 2 * now

    def _gains(self, history: History, period: int) -> bool:
        """Whether epochs of a period took less time than those of half of it."""
        seconds, before = (
            min(record["seconds"] for record in history if record["period"] == length)
            for length in (period, period // 2)
        )
        return bool(seconds <= (1 - self.gain) * before)


class LimitOverhead(Period):
    """The shortest with which communication stays under a share of the time. EDDL's LIMIT_OVERHEAD.

    From the last epoch: an averaging that takes c seconds, after p batches of b seconds, has the share
    c / (c + p b). Waiting for slower ranks is not counted, as no period mends it.
    """

    def __init__(self, period: int, longest: int, share: float) -> None:
        self.period, self.longest, self.share = period, longest, share

    def batches(self, epoch: int, history: History) -> int:
        if not history:
            return self.period
        last = history[-1]
        if not last["averagings"]:
            return int(last["period"])
        communication = max(rank["communication"] for rank in last["ranks"]) / last["averagings"]
        work = max(rank["data"] + rank["compute"] for rank in last["ranks"]) / last["batches"]
        if work <= 0:
            return int(last["period"])
        shortest = math.ceil(communication * (1 - self.share) / (self.share * work) - 1e-9)
        return max(1, min(shortest, self.longest))


def doublings(shortest: int, longest: int) -> list[int]:
    """shortest, twice that and so on up to the longest."""
    return [shortest * 2**i for i in range(int(math.log2(longest / shortest) + 1e-9) + 1)]
