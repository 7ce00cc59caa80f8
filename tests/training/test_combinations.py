"""Combinations on vectors of a few numbers: by hand, and the outer optimizer against PyTorch's."""

from types import SimpleNamespace

import numpy as np
import pydantic
import pytest
import torch

from dhhpc.training.combinations import BlockMomentum, Combination, Elastic, OuterOptimizer
from dhhpc.training.parallel import Parallel


def model(*parameters: float) -> SimpleNamespace:
    return SimpleNamespace(
        parameter_vector=np.array(parameters, np.float32), statistics_vector=np.array([7], np.float32)
    )


def to(mean):
    """An averaging that gives this mean."""

    def average(vector) -> None:
        vector[:] = mean

    return average


def test_the_mean():
    net = model(1, 5)
    Combination(net).combine(to([2, 3]))
    assert net.parameter_vector.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("nesterov", "given"),
    [
        # Momentum 0.5, and every block goes on by 1 from where it was given: steps 1, 1.5, 1.75.
        (False, [1, 2.5, 4.25]),
        (True, [1.5, 3.25, 5.125]),  # each further by half a step
    ],
)
def test_steps_of_block_momentum(nesterov, given):
    net = model(0)
    rule = BlockMomentum(net, 0.5, 1.0, nesterov)
    found = []
    for _ in given:
        rule.combine(to(net.parameter_vector + 1))
        found.append(net.parameter_vector.item())
    assert found == given


@pytest.mark.parametrize("nesterov", [False, True])
def test_block_momentum_of_steady_progress_makes_up_for_the_mean_over_ranks(nesterov):
    """With 1 - 1/ranks a step becomes as many times a rank's progress as there are ranks, and no more."""
    net = model(0)
    rule = BlockMomentum(net, 1 - 1 / 8, 1.0, nesterov)
    for _ in range(200):
        rule.combine(to(net.parameter_vector + 1))
    assert rule.velocity.item() == pytest.approx(8, rel=1e-4)


def test_elastic_ranks_and_centre_pull_at_each_other():
    """Ranks at 1 and 3, centre at 0, rate 0.25: they come to 0.75 and 2.25, the centre to 0.25 * (1 + 3)."""
    net = model(0)
    rule = Elastic(net, 0.25, 2)
    net.parameter_vector[:] = 3
    rule.combine(lambda pull: np.copyto(pull, (0.25 * 1 + pull) / 2))
    assert rule.agreed is not None
    assert net.parameter_vector.item() == 2.25
    assert rule.agreed[0].item() == 1.0
    assert rule.agreed[1].item() == 7


def test_the_outer_step_is_pytorchs_sgd_with_nesterov_momentum():
    random = np.random.default_rng(0)
    start = random.normal(size=20).astype(np.float32)
    net = model(*start)
    rule = OuterOptimizer(net, 0.7, 0.9)
    expected = torch.tensor(start.astype(np.float64), requires_grad=True)
    optimizer = torch.optim.SGD([expected], lr=0.7, momentum=0.9, nesterov=True)
    for _ in range(5):
        mean = random.normal(size=20).astype(np.float32)
        expected.grad = expected.detach() - torch.tensor(mean.astype(np.float64))
        optimizer.step()
        rule.combine(to(mean))
        np.testing.assert_allclose(net.parameter_vector, expected.detach().numpy(), rtol=0, atol=2e-5)


def chosen(ranks: int, batches: int, **options):
    method = pydantic.TypeAdapter(Parallel).validate_python(options)
    return method.combination(model(0), ranks, batches)


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({}, 4),  # a quarter of the steps each
        ({"batch": "divide"}, 1),
        ({"scale_learning_rate": "linear"}, 1),
        ({"scale_learning_rate": "square_root"}, 2),
        ({"momentum": 0.5}, 4),
        ({"momentum": 0.5, "step": 1}, 2),
    ],
)
def test_block_momentum_goes_as_far_as_one_rank_would_have_gone(options, times):
    rule = chosen(4, 1000, method="block-momentum", **options)
    for _ in range(200):
        rule.combine(to(rule.model.parameter_vector + 1))
    assert rule.velocity.item() == pytest.approx(times, rel=1e-4)


@pytest.mark.parametrize(
    ("batches", "options", "rate", "momentum"),
    [
        (64_000, {}, 0.7, 0.9),  # the paper's run; 0.7 / (1 - 0.9) is less than 8
        (32_000, {}, 0.7, 0.8),  # half as many outer steps: half the memory
        (5_000, {}, 1.0, 0.0),  # the mean of the ranks
        (8_000, {}, 0.8, 0.2),  # 0.8 / (1 - 0.2) = 1
        (64_000, {"batch": "divide"}, 0.7, 0.3),  # 0.7 / (1 - 0.3) = 1
        (64_000, {"scale_learning_rate": "square_root"}, 0.7, 1 - 0.7 / 8**0.5),
        (64_000, {"batch": "divide", "outer_learning_rate": 1.5}, 1.5, 0.0),
        (32_000, {"outer_momentum": 0.5, "outer_learning_rate": 1.0}, 1.0, 0.5),
    ],
)
def test_outer_momentum_fits_the_ranks_and_the_length_of_the_run(batches, options, rate, momentum):
    rule = chosen(8, batches, method="diloco", period=500, **options)
    assert (rule.learning_rate, rule.momentum) == pytest.approx((rate, momentum), abs=1e-6)
