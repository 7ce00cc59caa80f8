"""Optimizer steps against torch.optim."""

import numpy as np
import pytest
import torch

STEPS = 8


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum, nesterov, weight_decay, kernels, draw, assert_close):
    parameters = draw(1, 1001)
    velocity = np.zeros_like(parameters) if momentum else None
    theirs = torch.nn.Parameter(torch.tensor(parameters))
    optimizer = torch.optim.SGD(
        [theirs], 0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    for step in range(STEPS):
        gradients = draw(2 + step, 1001)
        theirs.grad = torch.tensor(gradients)
        optimizer.step()
        kernels.sgd_step(parameters, gradients, velocity, 0.1, momentum, nesterov, weight_decay)
    assert_close(parameters, theirs.detach().numpy(), 1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(decoupled, weight_decay, kernels, draw, assert_close):
    parameters = draw(1, 1001)
    moments = np.zeros_like(parameters), np.zeros_like(parameters)
    theirs = torch.nn.Parameter(torch.tensor(parameters))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([theirs], 0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay)
    for step in range(STEPS):
        gradients = draw(2 + step, 1001)
        gradients[::10] = 0  # parameters that nothing moves but decay
        theirs.grad = torch.tensor(gradients)
        optimizer.step()
        kernels.adam_step(
            parameters, gradients, *moments, step + 1, 0.01, 0.9, 0.999, 1e-8, weight_decay, decoupled
        )
    assert_close(parameters, theirs.detach().numpy(), 1e-6)
    state = optimizer.state[theirs]
    assert_close(moments[0], state["exp_avg"].numpy(), 1e-6)
    assert_close(moments[1], state["exp_avg_sq"].numpy(), 1e-6)
