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


@compile_kernel
def _rmsprop(
    parameters: np.ndarray,
    gradients: np.ndarray,
    square: np.ndarray,
    velocity: np.ndarray,
    learning_rate: np.float32,
    decay: np.float32,
    new: np.float32,
    momentum: np.float32,
    epsilon: np.float32,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    square = square[first:last]
    velocity = velocity[first:last]  # empty without momentum
    if velocity.size > 0:
        for i in range(parameters.size):
            gradient = gradients[i] + weight_decay * parameters[i]
            mean = decay * square[i] + new * gradient * gradient
            square[i] = mean
            speed = momentum * velocity[i] + gradient / (np.sqrt(mean) + epsilon)
            velocity[i] = speed
            parameters[i] -= learning_rate * speed
    else:
        for i in range(parameters.size):
            gradient = gradients[i] + weight_decay * parameters[i]
            mean = decay * square[i] + new * gradient * gradient
            square[i] = mean
            parameters[i] -= learning_rate * gradient / (np.sqrt(mean) + epsilon)


@compile_kernel
def _adagrad(
    parameters: np.ndarray,
    gradients: np.ndarray,
    squares: np.ndarray,
    learning_rate: np.float32,
    epsilon: np.float32,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    squares = squares[first:last]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        total = squares[i] + gradient * gradient
        squares[i] = total
        parameters[i] -= learning_rate * gradient / (np.sqrt(total) + epsilon)


@compile_kernel
def _adadelta(
    parameters: np.ndarray,
    gradients: np.ndarray,
    square: np.ndarray,
    change: np.ndarray,
    learning_rate: np.float32,
    decay: np.float32,
    new: np.float32,
    epsilon: np.float32,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    square = square[first:last]
    change = change[first:last]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        mean = decay * square[i] + new * gradient * gradient
        square[i] = mean
        step = np.sqrt(change[i] + epsilon) / np.sqrt(mean + epsilon) * gradient
        change[i] = decay * change[i] + new * step * step
        parameters[i] -= learning_rate * step


@compile_kernel
def _adamax(
    parameters: np.ndarray,
    gradients: np.ndarray,
    first_moment: np.ndarray,
    largest: np.ndarray,
    rate: np.float32,
    beta1: np.float32,
    new1: np.float32,
    beta2: np.float32,
    epsilon: np.float32,
    weight_decay: np.float32,
    first: int,
    last: int,
) -> None:
    parameters = parameters[first:last]
    gradients = gradients[first:last]
    first_moment = first_moment[first:last]
    largest = largest[first:last]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        mean = beta1 * first_moment[i] + new1 * gradient
        first_moment[i] = mean
        kept = beta2 * largest[i]
        size = abs(gradient) + epsilon
        bound = kept if kept > size else size
        largest[i] = bound
        parameters[i] -= rate * mean / bound


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


def rmsprop_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    square: np.ndarray,
    velocity: np.ndarray | None,
    learning_rate: float,
    decay: float,
    momentum: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """RMSProp (Tieleman and Hinton 2012), with momentum if velocity is given; both start at 0.

    square = decay * square + (1 - decay) * gradient^2; the step is gradient / (sqrt(square) + epsilon).
    """
    arrays = parameters, gradients, square, np.empty(0, F) if velocity is None else velocity
    numbers = (F(n) for n in (learning_rate, decay, 1 - decay, momentum, epsilon, weight_decay))
    run_shares(_rmsprop, parameters.size, parameters.size, *arrays, *numbers)


def adagrad_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    squares: np.ndarray,
    learning_rate: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """AdaGrad (Duchi et al. 2011): parameters -= learning_rate * gradient / (sqrt(squares) + epsilon).

    squares, at first 0, is the sum of all gradient^2.
    """
    numbers = F(learning_rate), F(epsilon), F(weight_decay)
    run_shares(_adagrad, parameters.size, parameters.size, parameters, gradients, squares, *numbers)


def adadelta_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    square: np.ndarray,
    change: np.ndarray,
    learning_rate: float,
    decay: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """AdaDelta (Zeiler 2012): step = gradient * sqrt(change + epsilon) / sqrt(square + epsilon).

    square and change, at first 0, are running means of gradient^2 and step^2.
    """
    arrays = parameters, gradients, square, change
    numbers = (F(n) for n in (learning_rate, decay, 1 - decay, epsilon, weight_decay))
    run_shares(_adadelta, parameters.size, parameters.size, *arrays, *numbers)


def adamax_step(
    parameters: np.ndarray,
    gradients: np.ndarray,
    first_moment: np.ndarray,
    largest: np.ndarray,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """AdaMax (Kingma and Ba 2015): Adam with largest = max(beta2 * largest, |gradient| + epsilon) below.

    step counts from 1; first_moment and largest start at 0.
    """
    arrays = parameters, gradients, first_moment, largest
    rate = learning_rate / (1 - beta1**step)
    numbers = (F(n) for n in (rate, beta1, 1 - beta1, beta2, epsilon, weight_decay))
    run_shares(_adamax, parameters.size, parameters.size, *arrays, *numbers)
