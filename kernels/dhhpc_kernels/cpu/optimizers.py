"""Parameter updates on flat float32 vectors, each in one pass. Formulas as torch.optim states them."""

import numpy as np

from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.parallel import run_shares

F = np.float32

# Each kernel slices its share first: the compiler then knows that no index is negative, and vectorises.


@compile_kernel
def _sgd(
    parameters: np.ndarray,
    gradients: np.ndarray,
    learning_rate: np.float32,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    for i in range(parameters.size):
        parameters[i] -= learning_rate * (gradients[i] + weight_decay * parameters[i])


@compile_kernel
def _sgd_momentum(
    parameters: np.ndarray,
    gradients: np.ndarray,
    velocity: np.ndarray,
    learning_rate: np.float32,
    momentum: np.float32,
    nesterov: bool,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    velocity = velocity[first:last]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        speed = momentum * velocity[i] + gradient
        velocity[i] = speed
        parameters[i] -= learning_rate * (gradient + momentum * speed if nesterov else speed)


@compile_kernel
def _adam(
    parameters: np.ndarray,
    gradients: np.ndarray,
    first_moment: np.ndarray,
    second_moment: np.ndarray,
    rate: np.float32,
    keep: np.float32,
    beta1: np.float32,
    new1: np.float32,
    beta2: np.float32,
    new2: np.float32,
    root: np.float32,
    epsilon: np.float32,
    decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    first_moment = first_moment[first:last]
    second_moment = second_moment[first:last]
    for i in range(parameters.size):
        parameter = parameters[i]
        gradient = gradients[i] + decay * parameter
        mean = beta1 * first_moment[i] + new1 * gradient
        square = beta2 * second_moment[i] + new2 * gradient * gradient
        first_moment[i] = mean
        second_moment[i] = square
        parameters[i] = keep * parameter - rate * mean / (np.sqrt(square) * root + epsilon)


def sgd_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    velocity: np.ndarray | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) if velocity, at first 0, is given.

    gradient = gradients + weight_decay * parameters; velocity = momentum * velocity + gradient;
    parameters -= learning_rate * (velocity, or gradient + momentum * velocity if nesterov).
    """
    if velocity is None:
        run_shares(
            _sgd, parameters.size, parameters.size, parameters, gradients, F(learning_rate), F(weight_decay)
        )
    else:
        run_shares(
            _sgd_momentum,
            parameters.size,
            parameters.size,
            parameters,
            gradients,
            velocity,
            F(learning_rate),
            F(momentum),
            bool(nesterov),
            F(weight_decay),
        )


def adam_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    first_moment: np.ndarray,
    second_moment: np.ndarray,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) if decoupled. Moments start at 0.

    step counts from 1. Not decoupled, weight_decay * parameters is added to the gradient; decoupled, the
    parameters shrink by learning_rate * weight_decay apart from it.
    """
    run_shares(
        _adam,
        parameters.size,
        parameters.size,
        parameters,
        gradients,
        first_moment,
        second_moment,
        F(learning_rate / (1 - beta1**step)),
        F(1 - learning_rate * weight_decay if decoupled else 1),
        F(beta1),
        F(1 - beta1),
        F(beta2),
        F(1 - beta2),
        F(1 / (1 - beta2**step) ** 0.5),
        F(epsilon),
        F(0 if decoupled else weight_decay),
    )
