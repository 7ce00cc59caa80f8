"""Learning rate schedules: what the learning rate is multiplied by, as a function of the epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import pydantic

from dhhpc.documents import Document


class Warmup(Document, ABC):
    """What all schedules share: a linear rise over the first `warmup_epochs` (Goyal et al., 2017)."""

    warmup_epochs: pydantic.NonNegativeFloat = 0.0

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor at `epoch` (fractional: 1.5 is the middle of the second epoch) of `epochs`.

        During the warm-up it rises in a line from 0 to 1, reached at `warmup_epochs`; a batch takes the value
        at its end, so the first one does not idle. The schedule itself runs over the epochs that are left.
        """
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        return self.after_warmup(epoch - self.warmup_epochs, max(epochs - self.warmup_epochs, 1e-9))

    @abstractmethod
    def after_warmup(self, epoch: float, epochs: float) -> float:
        """The factor `epoch` epochs after the warm-up, of `epochs`."""


class Constant(Warmup):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"

    def after_warmup(self, epoch: float, epochs: float) -> float:
        return 1.0


class Cosine(Warmup):
    """Half a cosine from 1 down to `final` (Loshchilov and Hutter, 2017, without restarts)."""

    name: Literal["cosine"]
    final: float = pydantic.Field(default=0.0, ge=0, le=1)

    def after_warmup(self, epoch: float, epochs: float) -> float:
        progress = min(epoch / epochs, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class Step(Warmup):
    """Times `factor_per_step` every `every_epochs`."""

    name: Literal["step"]
    every_epochs: pydantic.PositiveInt
    factor_per_step: float = pydantic.Field(default=0.1, gt=0, le=1)

    def after_warmup(self, epoch: float, epochs: float) -> float:
        # A batch takes the value at its end: the epoch's last batch still belongs to the step before.
        steps = math.ceil(epoch / self.every_epochs - 1e-9) - 1
        return self.factor_per_step ** max(steps, 0)


Schedule = Annotated[Constant | Cosine | Step, pydantic.Field(discriminator="name")]
