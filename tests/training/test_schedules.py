"""Schedules against values worked out by hand."""

import math

import pytest

from dhhpc.training.schedules import Constant, Cosine, Step


@pytest.mark.parametrize(
    ("schedule", "epoch", "factor"),
    [
        (Constant(), 7.3, 1.0),
        (Constant(warmup_epochs=2), 0.5, 0.25),
        (Constant(warmup_epochs=2), 2, 1.0),
        (Cosine(name="cosine"), 0, 1.0),
        (Cosine(name="cosine"), 5, 0.5),
        (Cosine(name="cosine"), 10, 0.0),
        (Cosine(name="cosine", final=0.2), 5, 0.6),
        (Cosine(name="cosine", final=0.2), 10, 0.2),
        (Cosine(name="cosine", warmup_epochs=2), 1, 0.5),
        (Cosine(name="cosine", warmup_epochs=2), 6, 0.5),
        (Cosine(name="cosine"), 2.5, (1 + math.sqrt(0.5)) / 2),
        (Step(name="step", every_epochs=3), 3, 1.0),
        (Step(name="step", every_epochs=3), 3.01, 0.1),
        (Step(name="step", every_epochs=3, factor_per_step=0.5), 9.5, 0.125),
        (Step(name="step", every_epochs=3, warmup_epochs=1), 4, 1.0),
    ],
)
def test_factor_at_an_epoch_of_ten(schedule, epoch, factor):
    assert schedule.factor(epoch, 10) == pytest.approx(factor, abs=1e-12)


def test_a_warmup_longer_than_the_run_only_rises():
    schedule = Cosine(name="cosine", warmup_epochs=20)
    assert [schedule.factor(epoch, 10) for epoch in (5, 10)] == [0.25, 0.5]
