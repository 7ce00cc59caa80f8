"""The simulation against seconds worked out by hand, expected maxima and Daly's formulas."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import integrate, stats

from dhhpc.errors import DhhpcError
from dhhpc.scaling.forecasts.failures import (
    Failures,
    daly_interval,
    expected_seconds,
    simulate_failures,
)
from dhhpc.scaling.forecasts.jitter import Jitter, residuals_of
from dhhpc.scaling.forecasts.network import Machine
from dhhpc.scaling.forecasts.plan import Network, Plan, Saving, plan
from dhhpc.scaling.forecasts.simulation import EpochTimes, Pace, Simulation
from dhhpc.training.experiment import Experiment

# Nothing takes time but what a test says.
MACHINE = {
    "name": "made up",
    "nodes": 4,
    "cores_per_node": 1,
    "ranks_per_node": 1,
    "within": {"latency": 0, "bandwidth": 1e30},
    "across": {"latency": 0, "bandwidth": 1e30},
    "memory": {"gigabytes": 1e6, "bandwidth": 1e30},
    "storage": {"bandwidth": 1e30, "node_bandwidth": 1e30},
}


# Also the few bytes of a meeting take their time in a network this slow.
near = partial(pytest.approx, rel=1e-4)


def planned(
    ranks: int, samples: int, parameters: int = 2**20, images: int = 0, machine=None, **parallel
) -> Plan:
    document = {
        "name": "e",
        "data": {"shards": "s"},
        "network": {"name": "unet"},
        "loss": "dice",
        "optimizer": {"name": "sgd"},
        "batch_size": 1,
        "epochs": 1,
        "parallel": {"method": "gradient"} | parallel,
    }
    described = Machine.model_validate(MACHINE | (machine or {}))
    network = Network(parameters)
    return plan(Experiment.model_validate(document), network, samples, images, ranks, described)


def simulated(plan: Plan, pace: Pace, factors=None, overlap: float = 1.0) -> EpochTimes:
    """An epoch with the paces of ranks that are told."""
    simulation = Simulation(plan, pace, Jitter(), overlap)
    if factors is not None:
        simulation.factors = np.array(factors, float)
    return simulation.epoch()


# Sums of 4 MB over two nodes: each sends half and gets half, twice.
def sums(seconds: float) -> dict[str, dict[str, float]]:
    return {"across": {"latency": 0, "bandwidth": 2**22 / seconds}}


def test_a_rank_alone_meets_nobody() -> None:
    times = simulated(planned(1, 5, method="gradient"), Pace(2.0, step=0.5, data=0.2, other=0.1, epoch=3.0))
    assert times.batches_seconds == near(5 * (2.5 + 0.1) + 3)
    assert times.data == near([2.5])
    assert times.compute == near([10.0])
    assert times.other == near(3.5)
    assert (times.wait[0], times.communication[0], times.averagings) == (0, 0, 5)


@pytest.mark.parametrize(
    ("overlap", "sum_seconds", "step"),
    [
        # Two buckets of 2 MB are there after 2 s and 3 s: the last half second of the sums is not hidden.
        (1.0, 1.0, 3.5),
        # The second bucket waits for the first, 2 + 2.5 + 2.5.
        (1.0, 5.0, 7.0),
        # Nothing goes on by itself: the cores take all of it, after the backward pass.
        (0.0, 1.0, 4.0),
        # Half a second is theirs; what is hidden is, by then.
        (0.5, 1.0, 3.5),
    ],
)
def test_gradients_are_sent_during_the_backward_pass(overlap: float, sum_seconds: float, step: float) -> None:
    # A step takes a second forward and two backward.
    two = planned(2, 8, machine=sums(sum_seconds), method="gradient", bucket_megabytes=2)
    times = simulated(two, Pace(3.0), overlap=overlap)
    assert len(two.meetings.buckets) == 2
    assert times.batches_seconds == near(4 * step)
    assert times.compute == near([12, 12])
    assert times.communication == near([4 * (step - 3)] * 2)


def test_gradients_are_sent_after_the_backward_pass_where_that_is_wanted() -> None:
    two = planned(2, 8, machine=sums(1.0), method="gradient", bucket_megabytes=0)
    assert simulated(two, Pace(3.0)).batches_seconds == near(4 * 4.0)


def test_ranks_wait_for_the_slowest_at_each_averaging() -> None:
    # Batches of 1 s and of 1.5 s; 5 of them, averaged in 0.25 s after 2, 4 and, at the end, 5.
    two = planned(2, 10, machine=sums(0.25), method="fixed", period=2)
    times = simulated(two, Pace(1.0), factors=[1.0, 1.5])
    assert times.batches_seconds == near(7.5 + 3 * 0.25)
    assert times.wait == pytest.approx([2.5, 0.0], abs=1e-4)
    assert times.communication == near([0.75, 0.75])
    assert times.averagings == 3


def test_a_last_batch_may_have_no_sample_for_a_rank() -> None:
    times = simulated(planned(2, 5, method="fixed", period=2), Pace(1.0))
    assert times.compute == near([3.0, 2.0])
    assert times.batches_seconds == near(3.0)


def test_elastic_ranks_carry_batches_over_the_end_of_an_epoch() -> None:
    three = Simulation(planned(2, 6, machine=sums(1.0), method="elastic", period=2), Pace(1.0), Jitter())
    first, second = three.epoch(), three.epoch()
    assert (first.averagings, second.averagings) == (1, 2)
    assert first.batches_seconds == near(3 + 1)


def test_groups_wait_for_their_own_and_rarely_for_all() -> None:
    # Two nodes of two ranks; ranks 1 and 2 are twice and three times as slow.
    machine = {"nodes": 2, "ranks_per_node": 2, "cores_per_node": 2} | {
        "within": {"latency": 0, "bandwidth": 2**22 / 0.5},
        "across": {"latency": 0, "bandwidth": 2**22},
    }
    four = planned(4, 8, machine=machine, method="two-level", near_period=1, period=2)
    times = simulated(four, Pace(1.0), factors=[1, 2, 3, 1])
    # Near averagings at 2 s and at 3 s take 0.5 s each; then a batch each, until 4.5 s and 6.5 s; then all
    # average: near, across in 1 s, and the first ranks pass the mean on in 0.5 s.
    assert times.batches_seconds == near(6.5 + 0.5 + 1.0 + 0.5)
    # Rank 0 waits 1 s for rank 1; at the end 3 s for rank 2.
    assert times.wait == pytest.approx([1 + 3, 0 + 2, 0, 2 + 2], abs=1e-4)


def test_local_sgd_changes_its_method_and_its_period() -> None:
    both = planned(2, 8, machine=sums(1.0), method="local-sgd", switch_epoch=1, warmup_epochs=1, period=4)
    simulation = Simulation(both, Pace(3.0), Jitter())
    found = [simulation.epoch() for _ in range(3)]
    assert [times.averagings for times in found] == [4, 4, 1]
    assert [times.period for times in found] == [1, 1, 4]
    # The parts of gradients of 4 MB: the first is hidden, the last takes its half second.
    assert found[0].batches_seconds == near(4 * 3.5)
    assert found[2].batches_seconds == near(12 + 1)


def test_periods_that_time_decides_are_the_real_ones() -> None:
    # Averaging in 1 s after batches of 1 s: 0.11 of the time leaves 8.1 batches between.
    limited = planned(2, 20, machine=sums(1.0), method="limit-overhead", share=0.11)
    simulation = Simulation(limited, Pace(1.0), Jitter())
    assert [simulation.epoch().period for _ in range(2)] == [1, 9]


def test_checkpoints_wait_for_the_one_before() -> None:
    one = replace(planned(1, 4, method="gradient"), saving=Saving(0.5, 6.0, 1, True))
    simulation = Simulation(one, Pace(1.0), Jitter())
    # Written in 6 s behind epochs of 4 s: the second one waits for 2 s, the last one for itself, too.
    assert [simulation.epoch(last).checkpoint for last in (False, False, True)] == near(
        [0.5, 2.5, 0.5 + 2 + 6]
    )
    waits = replace(one, saving=replace(one.saving, asynchronous=False, every_epochs=2))
    simulation = Simulation(waits, Pace(1.0), Jitter())
    assert [simulation.epoch().checkpoint for _ in range(3)] == near([0, 6.5, 0])


def test_validation_waits_for_the_rank_with_the_most_images() -> None:
    assert simulated(planned(2, 2, images=5), Pace(1.0, image=0.5)).validation == near(1.5)


def test_what_a_checkpoint_writes() -> None:
    machine = {"storage": {"bandwidth": 2e6, "node_bandwidth": 1e6, "latency": 0.25}}
    kept = {"method": "fixed", "optimizer_state": "keep"}
    # 4 MB that all agree upon are one shard of at least 8 MB.
    assert planned(4, 8, 10**6, machine=machine, **kept).saving.write == near(0.25 + 4)
    # 40 MB are four, through a file system that takes 2 MB/s.
    assert planned(4, 8, 10**7, machine=machine, **kept).saving.write == near(0.25 + 20)
    # What each rank has of its own is a model for each of four.
    elastic = planned(4, 8, 10**6, machine=machine, method="elastic")
    assert elastic.saving.write == near(0.25 + (4 + 16) / 2)


def test_half_the_bytes_of_compressed_gradients() -> None:
    whole = planned(2, 8, machine=sums(1.0), method="gradient")
    half = planned(2, 8, machine=sums(1.0), method="gradient", compression={"method": "bf16"})
    assert sum(half.meetings.buckets) == near(sum(whole.meetings.buckets) / 2)


@pytest.mark.parametrize(
    ("ranks", "changes", "message"),
    [
        (5, {}, "--ranks 5: made up has 4 nodes of 1 ranks; ask for at most 4"),
        (2, {"samples": 1}, "1 training samples are fewer than the ranks"),
        (2, {"method": "spatial"}, "parallel.method: spatial training cannot be simulated"),
        (2, {"compression": {"method": "top-k"}}, "parallel.compression: top-k cannot be simulated"),
        (2, {"split": [1.0, 2.0, 3.0]}, "parallel.split: has weights for 3 ranks, not 2"),
        (2, {"batch_normalization": "synchronised"}, "parallel.batch_normalization: synchronised"),
        (2, {"parameters": 10**15}, "lower ranks_per_node"),
    ],
)
def test_what_cannot_be_simulated_is_refused(ranks: int, changes: dict, message: str) -> None:
    with pytest.raises(DhhpcError, match=message):
        planned(ranks, **{"samples": 100, "method": "gradient"} | changes)


def largest_of(count: int, deviation: float) -> float:
    """The expected maximum of so many log-normal factors of mean 1: the integral of 1 - F^n."""
    factor = stats.lognorm(deviation, scale=math.exp(-(deviation**2) / 2))
    return integrate.quad(lambda x: 1 - factor.cdf(x) ** count, 0, 5, limit=200, points=[0.5, 1, 2])[0]


@pytest.mark.parametrize("ranks", [2, 100])
def test_steps_take_the_expected_maximum_of_the_jitter(ranks: int) -> None:
    wide = planned(ranks, ranks * 2000, machine={"nodes": ranks}, method="fixed", period=1)
    times = Simulation(wide, Pace(1.0), Jitter(step=0.2)).epoch()
    expected = largest_of(ranks, 0.2)
    assert times.batches_seconds / 2000 == pytest.approx(expected, rel=0.01)
    assert times.compute.mean() / 2000 == pytest.approx(1.0, rel=0.01)
    assert times.wait.mean() / 2000 == pytest.approx(expected - 1, rel=0.04)


def test_measured_steps_are_drawn_as_they_are() -> None:
    # The maximum of n steps that take 0.5 or 1.5 is 0.5 once in 2^n.
    measured = Jitter(residuals=residuals_of([1.0, 3.0]))
    three = planned(3, 3 * 4000, method="fixed", period=1)
    seconds = Simulation(three, Pace(2.0), measured).epoch().batches_seconds
    assert seconds / 4000 == pytest.approx(2 * (1.5 - 1 / 8), rel=0.02)


def test_the_same_seed_gives_the_same_times() -> None:
    def run(seed: int) -> float:
        jitter = Jitter(0.1, 0.1, 0.1)
        return Simulation(planned(4, 40, method="fixed"), Pace(1.0), jitter, seed=seed).epoch().seconds

    assert run(1) == run(1) != run(2)


def test_long_epochs_stand_for_themselves() -> None:
    one = planned(2, 1001, machine=sums(0.5), method="fixed", period=5)
    pace = Pace(1.0, epoch=2.0)
    short = Simulation(one, pace, Jitter(), most_batches=100).epoch()
    # 500.5 batches of which each takes 1.1 s, against 501 with an averaging after the last.
    assert short.batches_seconds == pytest.approx(2 + 500.5 * 1.1)
    assert Simulation(one, pace, Jitter()).epoch().batches_seconds == pytest.approx(2 + 501 + 101 * 0.5)


def test_ten_thousand_ranks_are_simulated_in_seconds() -> None:
    many = planned(10_000, 10_000 * 100, machine={"nodes": 10_000}, method="fixed")
    started = time.perf_counter()
    Simulation(many, Pace(1.0), Jitter(0.1, 0.1, 0.1)).epoch()
    # A tenth of the thousand batches that may take a minute.
    assert time.perf_counter() - started < 6


def test_the_interval_of_checkpoints_is_the_best_of_the_exact_cost() -> None:
    failures = Failures(3600.0, restart=60.0)
    intervals = np.linspace(60, 3600, 20_000)
    costs = [expected_seconds(1e5, interval, 30.0, failures) for interval in intervals]
    best = intervals[int(np.argmin(costs))]
    assert daly_interval(30.0, 3600.0) == pytest.approx(best, rel=0.002)
    # Young, 1974: sqrt(2 pause mtbf), which is right to first order.
    assert daly_interval(0.1, 1e6) == pytest.approx(math.sqrt(2 * 0.1 * 1e6), rel=0.001)
    assert daly_interval(100.0, 40.0) == 40.0
    assert daly_interval(1.0, math.inf) == math.inf


@pytest.mark.parametrize(("restart", "requeue"), [(0.0, 0.0), (50.0, 0.0), (50.0, 300.0)])
def test_drawn_failures_cost_what_the_formula_says(restart: float, requeue: float) -> None:
    failures = Failures(1000.0, restart, requeue)
    outcome = simulate_failures(40, 190.0, 10.0, 0.0, failures, seed=3)
    assert outcome.seconds == pytest.approx(
        expected_seconds(40 * 190.0, 190.0, 10.0, failures), abs=4 * outcome.error
    )
    assert outcome.failures == pytest.approx(outcome.held / 1000, rel=0.05)


def test_a_checkpoint_on_its_way_does_not_count() -> None:
    failures = Failures(1000.0)
    at_once = simulate_failures(50, 100.0, 0.0, 0.0, failures, seed=1)
    late = simulate_failures(50, 100.0, 0.0, 100.0, failures, seed=1)
    # Written in all of an interval, each failure after the first stretch loses one more: 100 s of work.
    more = (late.seconds - at_once.seconds) / late.failures
    assert more == pytest.approx(100, rel=0.15)
    assert simulate_failures(50, 100.0, 2.0, 0.0, Failures(math.inf), seed=1).seconds == 5100
