"""Optimizers over the flat vector of all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from dhhpc.eddl.graph import Array
from dhhpc.errors import DhhpcError


class Optimizer:
    """One step over flat float32 vectors.

    Attributes:
        learning_rate: may be set between steps.
        step_count: steps made.
        state_vector: flat float32, what the optimizer remembers of each parameter (averaged by ranks, kept in
            checkpoints); empty before `build`, and for plain SGD.
    """

    moments = 0

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        if not learning_rate > 0 or not weight_decay >= 0:
            found = f"learning_rate {learning_rate}, weight_decay {weight_decay}"
            raise DhhpcError(f"optimizer: {found}; the first must be above 0, the second at least 0")
        self.learning_rate = float(learning_rate)
        self.weight_decay = float(weight_decay)
        self.step_count = 0
        self.state_vector: Array = np.zeros(0, np.float32)
        self.states: list[Array] = []

    def build(self, parameter_count: int) -> None:
        """Allocate the state, zeroed."""
        self.step_count = 0
        self.state_vector = np.zeros(self.moments * parameter_count, np.float32)
        self.states = [
            self.state_vector[k * parameter_count :][:parameter_count] for k in range(self.moments)
        ]

    def step(self, kernels: ModuleType, parameters: Array, gradients: Array) -> None:
        """Make one step: update all `parameters` in place."""
        self.step_count += 1
        self.update(kernels, parameters, gradients, self.states)

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        """Update some of the parameters, with their part of each state, in step number `step_count`."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g + weight_decay p; p = p - learning_rate v
    (Sutskever et al., 2013; Nesterov's variant steps along g + momentum v)."""

    def __init__(
        self,
        learning_rate: float = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        if not 0 <= momentum < 1 or (nesterov and not momentum):
            raise DhhpcError(f"optimizer: momentum {momentum} must lie in [0, 1), above 0 with nesterov")
        self.momentum, self.nesterov = float(momentum), nesterov
        self.moments = 1 if momentum else 0

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        velocity = states[0] if states else None
        kernels.sgd_step(
            parameters,
            gradients,
            velocity,
            self.learning_rate,
            self.momentum,
            self.nesterov,
            self.weight_decay,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015); `decoupled`: the weight decay of AdamW (Loshchilov and Hutter, 2019)."""

    moments = 2

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        if not 0 <= beta1 < 1 or not 0 <= beta2 < 1 or not epsilon > 0:
            raise DhhpcError(
                f"optimizer: beta1 {beta1} and beta2 {beta2} must lie in [0, 1), epsilon above 0"
            )
        self.beta1, self.beta2, self.epsilon, self.decoupled = beta1, beta2, epsilon, decoupled

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        kernels.adam_step(
            parameters,
            gradients,
            *states,
            self.step_count,
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
            self.decoupled,
        )


class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton, 2012), with momentum where it is above 0."""

    def __init__(
        self,
        learning_rate: float = 0.01,
        decay: float = 0.99,
        momentum: float = 0.0,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        check_shares(epsilon, decay=decay, momentum=momentum)
        self.decay, self.momentum, self.epsilon = float(decay), float(momentum), float(epsilon)
        self.moments = 2 if momentum else 1

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        kernels.rmsprop_step(
            parameters,
            gradients,
            states[0],
            states[1] if self.momentum else None,
            self.learning_rate,
            self.decay,
            self.momentum,
            self.epsilon,
            self.weight_decay,
        )


class AdaGrad(Optimizer):
    """AdaGrad (Duchi et al., 2011)."""

    moments = 1

    def __init__(
        self, learning_rate: float = 0.01, epsilon: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        check_shares(epsilon)
        self.epsilon = float(epsilon)

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        kernels.adagrad_step(
            parameters, gradients, states[0], self.learning_rate, self.epsilon, self.weight_decay
        )


class AdaDelta(Optimizer):
    """AdaDelta (Zeiler, 2012); its own learning rate is 1."""

    moments = 2

    def __init__(
        self,
        learning_rate: float = 1.0,
        decay: float = 0.9,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        check_shares(epsilon, decay=decay)
        self.decay, self.epsilon = float(decay), float(epsilon)

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        kernels.adadelta_step(
            parameters,
            gradients,
            *states,
            self.learning_rate,
            self.decay,
            self.epsilon,
            self.weight_decay,
        )


class AdaMax(Optimizer):
    """AdaMax (Kingma and Ba, 2015): Adam divided by the largest gradient in place of the mean square."""

    moments = 2

    def __init__(
        self,
        learning_rate: float = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(learning_rate, weight_decay)
        check_shares(epsilon, beta1=beta1, beta2=beta2)
        self.beta1, self.beta2, self.epsilon = float(beta1), float(beta2), float(epsilon)

    def update(
        self, kernels: ModuleType, parameters: Array, gradients: Array, states: Sequence[Array]
    ) -> None:
        kernels.adamax_step(
            parameters,
            gradients,
            *states,
            self.step_count,
            self.learning_rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.weight_decay,
        )


def check_shares(epsilon: float, **shares: float) -> None:
    """Refuse an epsilon that is not above 0 and a share of the old value outside [0, 1)."""
    if not epsilon > 0:
        raise DhhpcError(f"optimizer: epsilon {epsilon} must lie above 0")
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise DhhpcError(f"optimizer: {name} {value} must lie in [0, 1)")
