"""Fitted models against times drawn from known parameters, exact times, and linear algebra by others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import norm

from dhhpc.scaling.bootstrap import interval_of_estimate, most_confidence
from dhhpc.scaling.fits.fitted import CurvePoint, Fit, goodness
from dhhpc.scaling.fits.laws import LAWS, fit_law
from dhhpc.scaling.fits.least_squares import condition, not_negative
from dhhpc.scaling.fits.mechanism import expected_maximum, fit_mechanism
from tests.scaling.synthetic_trainer import SyntheticTrainer

COUNTS = [1, 2, 4, 8, 16, 32]


def amdahl(n, alone, serial):
    return alone * (serial + (1 - serial) / n)


def gustafson(n, alone, serial):
    return n * alone / (serial + (1 - serial) * n)


def scalability(n, alone, contention, coherence):
    return alone * (1 + contention * (n - 1) + coherence * n * (n - 1)) / n


def weak_scalability(n, alone, contention, coherence):
    return n * scalability(n, alone, contention, coherence)


# mode, law, totm by n, and the truth.
CASES = [
    ("strong", "amdahl", amdahl, (100.0, 0.08)),
    ("weak", "gustafson", gustafson, (100.0, 0.25)),
    ("strong", "usl", scalability, (100.0, 0.06, 0.002)),
    ("weak", "usl", weak_scalability, (100.0, 0.06, 0.002)),
]


def law_of(mode: str, model: str):
    return next(law for law in LAWS[mode] if law.model == model)


def values(fit: Fit) -> list[float]:
    return [parameter.value for parameter in fit.parameters]


def drawn(seconds, truth, repeats: int, noise: float, seed: int):
    ranks = np.repeat(COUNTS, repeats)
    exact = seconds(ranks, *truth)
    return ranks, exact * np.exp(np.random.default_rng(seed).normal(0, noise, len(ranks)))


@pytest.mark.parametrize(("mode", "model", "seconds", "truth"), CASES)
def test_laws_recover_what_the_times_were_made_from(mode, model, seconds, truth):
    law = law_of(mode, model)
    exact = fit_law(law, *drawn(seconds, truth, 1, 0.0, 0), draws=50)
    assert values(exact) == pytest.approx(truth, rel=1e-4)
    assert exact.relative_rmse < 1e-5
    for seed in range(10):
        fit = fit_law(law, *drawn(seconds, truth, 5, 0.01, seed), draws=50)
        assert values(fit) == pytest.approx(truth, rel=0.1)
    assert exact.curve[0].ranks == 1
    assert exact.curve[-1].ranks == 32
    assert CurvePoint.model_validate({"ranks": 2, "totm": 3.5}).seconds == 3.5  # of earlier results
    assert exact.curve[6].seconds == pytest.approx(seconds(7, *truth), rel=1e-4)


@pytest.mark.parametrize(("mode", "model", "seconds", "truth"), CASES)
def test_intervals_of_laws_hold_the_truth(mode, model, seconds, truth):
    held = np.zeros(len(truth))
    for seed in range(200):
        fit = fit_law(law_of(mode, model), *drawn(seconds, truth, 3, 0.03, seed), draws=200, seed=seed)
        held += [
            parameter.low <= value <= parameter.high
            for parameter, value in zip(fit.parameters, truth, strict=True)
        ]
    assert (held >= 0.9 * 200).all()


TRAINER = SyntheticTrainer()
NAMES = ("compute", "data", "latency", "seconds_per_byte", "jitter", "validation", "checkpoint", "once")


@pytest.mark.parametrize(
    "trainer",
    [
        TRAINER,
        SyntheticTrainer(period=4, jitter=0.3, latency=1e-4, size=2e6),
        SyntheticTrainer(ranks_per_node=2, memory_seconds_per_byte=2e-10),
    ],
)
def test_the_mechanism_recovers_what_the_trainer_was_made_from(trainer):
    names = [*NAMES, *(["memory_seconds_per_byte"] if trainer.ranks_per_node > 1 else [])]
    for seed in range(3):
        fit = fit_mechanism(trainer.runs([*COUNTS, 64], 5, seed), draws=50)
        found = {parameter.name: parameter.value for parameter in fit.parameters}
        assert found == pytest.approx({name: getattr(trainer, name) for name in names}, rel=0.1)
        assert fit.r_squared > 0.999
        assert fit.relative_rmse < 0.02
    measured = {run.ranks: run.totm for run in trainer.runs([*COUNTS, 64], 1, 9)}
    assert {point.ranks: point.seconds for point in fit.curve} == pytest.approx(measured, rel=0.05)


def test_intervals_of_the_mechanism_hold_the_truth():
    trainer = SyntheticTrainer(samples=512, epochs=8)
    held = dict.fromkeys(NAMES, 0)
    for seed in range(200):
        for parameter in fit_mechanism(trainer.runs(COUNTS, 3, seed), draws=200, seed=seed).parameters:
            held[parameter.name] += parameter.low <= getattr(trainer, parameter.name) <= parameter.high
    assert min(held.values()) >= 0.9 * 200, held


def test_too_few_rank_counts_are_refused():
    two, three = np.repeat([1, 2], 10), np.repeat([1, 2, 4], 10)
    fit = fit_law(law_of("strong", "amdahl"), two, 10.0 / two)
    assert fit.refused == "Amdahl's law has 2 parameters and needs 3 different rank counts; measured: 2"
    assert (fit.parameters, fit.curve, fit.r_squared, fit.observations) == ([], [], None, 20)
    assert fit_law(law_of("strong", "amdahl"), three, 10.0 / three).refused is None
    assert (
        "needs 4 different rank counts; measured: 3" in fit_law(law_of("strong", "usl"), three, three).refused
    )
    assert (
        "3 different rank counts; measured: 2 above one"
        in fit_mechanism(TRAINER.runs([1, 2, 4], 5, 0)).refused
    )
    assert "needs 2 different rank counts; measured: 1" in fit_mechanism(TRAINER.runs([4], 5, 0)).refused
    by_nodes = SyntheticTrainer(ranks_per_node=2, memory_seconds_per_byte=1e-10)
    assert "3 parameters and needs 4" in fit_mechanism(by_nodes.runs([1, 2, 4, 8], 2, 0)).refused


def test_small_messages_do_not_tell_latency_from_bandwidth():
    runs = SyntheticTrainer(size=80).runs(COUNTS, 2, 0)
    # The trainer's formula is that of large messages: let each go by recursive doubling here.
    small = [
        type(run)(**vars(run) | {"communication": run.averagings * np.log2(run.ranks) * (3e-5 + 8e-8)})
        for run in runs
    ]
    assert "cannot be told apart" in fit_mechanism(small).refused


def test_the_same_seed_gives_the_same_interval():
    ranks, seconds = drawn(amdahl, (100.0, 0.08), 3, 0.03, 0)
    law = law_of("strong", "amdahl")
    assert fit_law(law, ranks, seconds) == fit_law(law, ranks, seconds)
    assert fit_law(law, ranks, seconds) != fit_law(law, ranks, seconds, seed=2)


def test_least_squares_without_negative_parameters_is_scipys():
    random = np.random.default_rng(0)
    columns, right = random.normal(size=(9, 4)), random.normal(size=(9, 50))
    columns[:, 1] *= 1e-9
    found = not_negative(columns, right)
    for number in range(50):
        expected, _ = nnls(columns, right[:, number])
        assert found[:, number] * [1, 1e-9, 1, 1] == pytest.approx(expected * [1, 1e-9, 1, 1], abs=1e-9)
    assert condition(np.eye(3)) == pytest.approx(1)
    assert condition(np.array([[1.0, 2.0], [2.0, 4.0]])) > 1e12


def test_expected_maxima_and_goodness_by_hand():
    # Of two and three: 1 / sqrt(pi) and 3 / (2 sqrt(pi)) (David and Nagaraja, "Order Statistics").
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(np.pi**-0.5)
    assert expected_maximum(3) == pytest.approx(1.5 * np.pi**-0.5)
    largest = norm.rvs(size=(4000, 64), random_state=1).max(axis=1)
    assert expected_maximum(64) == pytest.approx(largest.mean(), abs=0.03)
    # Errors of 10 % of 10 s and of 20 s, one parameter and the errors' spread: k = 2.
    ranks, seconds = np.array([1.0, 1, 2, 2, 4]), np.array([10.0, 10, 20, 20, 40])
    found = goodness(ranks, seconds, seconds + np.array([1, -1, 2, -2, 0]), 1)
    assert found["relative_rmse"] == pytest.approx((0.04 / 5) ** 0.5)
    assert found["r_squared"] == pytest.approx(1 - 10 / 600)
    assert found["aicc"] == pytest.approx(5 * np.log(0.04 / 5) + 4 + 12 / 2)
    assert goodness(ranks, seconds, seconds, 1)["aicc"] is None
    assert goodness(ranks[:3], seconds[:3], seconds[:3] + 1, 1)["aicc"] is None
    # Percentiles -1.96 and 1.96 from 10, with Student's t of one degree of freedom: 12.706.
    draws = norm.ppf((np.arange(100000) + 0.5) / 100000) + 10
    assert interval_of_estimate(10.0, draws, 1) == pytest.approx((0.0, 22.706), abs=0.01)
    assert interval_of_estimate(10.0, draws, 1, most=11.0)[1] == 11
    assert [most_confidence(runs) for runs in (2, 3, 6)] == [0.5, 0.75, 0.96875]
