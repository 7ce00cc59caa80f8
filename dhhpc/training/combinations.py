"""What becomes of the parameters of ranks that have trained alone for a while, when they meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dhhpc.eddl import Model

Array = np.ndarray[Any, Any]

# Replaces a vector, in place, by its mean over the ranks.
Average = Callable[[Array], None]


class Combination:
    """One way to combine. This one gives every rank the mean.

    Attributes:
        agreed: what all ranks have agreed upon, parameters and batch-norm statistics, where ranks go on from
            others or between two meetings; None where that is what they go on from.
        remembered: by name, what it keeps beside the model from one meeting to the next, alike on all ranks.
        ranks_differ: whether ranks go on from different parameters.
    """

    ranks_differ = False

    def __init__(self, model: Model) -> None:
        self.model = model
        self.agreed: tuple[Array, Array] | None = None
        self.remembered: dict[str, Array] = {}

    def begin(self) -> None:
        """All ranks hold the same model: at the start, and when a run is taken up."""

    def combine(self, average: Average) -> None:
        """Change the model's parameters; its statistics have been averaged."""
        average(self.model.parameter_vector)


class BlockMomentum(Combination):
    """The step from one mean to the next goes on a little in the direction of the steps before it.

    Blockwise model-update filtering (Chen and Huo, 2016): without it the mean moves as if only a ranks-th of
    the samples had been seen. With `nesterov` ranks go on from where the momentum will take them.

    Args:
        momentum: of the step before, how much stays.
        step: what the way of the mean is multiplied by.
    """

    def __init__(self, model: Model, momentum: float, step: float, nesterov: bool) -> None:
        super().__init__(model)
        self.momentum, self.step = np.float32(momentum), np.float32(step)
        self.nesterov = nesterov
        self.anchor = model.parameter_vector.copy()
        self.velocity = np.zeros_like(self.anchor)
        self.remembered = {"anchor": self.anchor, "velocity": self.velocity}

    def begin(self) -> None:
        self.anchor[:] = self.model.parameter_vector
        self.velocity[:] = 0

    def combine(self, average: Average) -> None:
        parameters = self.model.parameter_vector
        average(parameters)
        # The step is counted from where ranks went on, which with `nesterov` lies ahead already.
        progress = parameters - self._going_on()
        self.velocity *= self.momentum
        self.velocity += self.step * progress
        self.anchor += self.velocity
        parameters[:] = self._going_on()

    def _going_on(self) -> Array:
        return self.anchor + self.momentum * self.velocity if self.nesterov else self.anchor


class Elastic(Combination):
    """Each rank keeps its own parameters, which a spring ties to a centre that the ranks share.

    Elastic averaging SGD (Zhang, Choromanska and LeCun, 2015), synchronous: with x of a rank, the centre c
    and moving rate a, x becomes x - a (x - c), and c moves by a times the sum of all (x - c).
    """

    ranks_differ = True

    def __init__(self, model: Model, moving_rate: float, ranks: int) -> None:
        super().__init__(model)
        self.moving_rate, self.ranks = np.float32(moving_rate), np.float32(ranks)
        self.agreed = model.parameter_vector.copy(), model.statistics_vector.copy()

    def begin(self) -> None:
        assert self.agreed is not None
        self.agreed[0][:] = self.model.parameter_vector
        self.agreed[1][:] = self.model.statistics_vector

    def combine(self, average: Average) -> None:
        assert self.agreed is not None
        parameters, (centre, statistics) = self.model.parameter_vector, self.agreed
        statistics[:] = self.model.statistics_vector
        pull = parameters - centre
        pull *= self.moving_rate
        parameters -= pull
        average(pull)
        pull *= self.ranks
        centre += pull


class OuterOptimizer(Combination):
    """The way that the ranks have gone on average is the gradient of an outer step with Nesterov momentum.

    DiLoCo (Douillard et al., 2023). Ranks keep the state of their own optimizers, and epochs end without a
    meeting, so few bytes are sent.
    """

    def __init__(self, model: Model, learning_rate: float, momentum: float) -> None:
        super().__init__(model)
        self.learning_rate, self.momentum = np.float32(learning_rate), np.float32(momentum)
        self.agreed = model.parameter_vector.copy(), model.statistics_vector.copy()
        self.velocity = np.zeros_like(self.agreed[0])
        self.remembered = {"velocity": self.velocity}

    def begin(self) -> None:
        assert self.agreed is not None
        self.agreed[0][:] = self.model.parameter_vector
        self.agreed[1][:] = self.model.statistics_vector
        self.velocity[:] = 0

    def combine(self, average: Average) -> None:
        assert self.agreed is not None
        parameters, (agreed, statistics) = self.model.parameter_vector, self.agreed
        statistics[:] = self.model.statistics_vector
        average(parameters)
        gradient = agreed - parameters
        self.velocity *= self.momentum
        self.velocity += gradient
        gradient += self.momentum * self.velocity
        gradient *= self.learning_rate
        agreed -= gradient
        parameters[:] = agreed
