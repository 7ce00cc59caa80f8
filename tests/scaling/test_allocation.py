"""Splits and choices of ranks against all that there are, linear programmes, and figures by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from dhhpc.errors import DhhpcError
from dhhpc.scaling.resources.allocation import (
    Kind,
    Policy,
    Work,
    allocate,
    averaging_seconds,
    forecast,
    splits,
)


def shares_of(batch: int, ranks: int, least: int):
    """Every way to deal a batch to ranks."""
    if ranks == 1:
        yield (batch,)
        return
    for first in range(least, batch - least * (ranks - 1) + 1):
        for rest in shares_of(batch - first, ranks - 1, least):
            yield (first, *rest)


# Few different paces, so that ranks often take as long as others.
paces = st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.7, 1.3])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), paces, st.floats(0, 5)), min_size=1, max_size=3), st.integers(0, 6)
)
def test_within_any_time_no_split_costs_less(kinds, spare):
    counts, pace, costs = map(list, zip(*kinds, strict=True))
    batch = sum(counts) + spare
    seconds, totals = splits(batch, counts, pace, costs)
    found = totals @ np.array(costs)
    assert (totals.sum(axis=1) == batch).all()
    assert (totals >= counts).all()
    order = np.repeat(np.arange(len(counts)), counts)
    dealt = np.array(list(shares_of(batch, sum(counts), least=1)))
    times = (dealt * np.array(pace)[order]).max(axis=1)
    spent = dealt @ np.array(costs)[order]
    assert seconds[0] == times.min()
    for limit in np.unique(times):
        least = spent[times <= limit].min()
        assert found[seconds <= limit].min() == pytest.approx(least, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(paces, st.floats(0.1, 5)), min_size=2, max_size=4), st.floats(1.05, 3))
def test_large_batches_come_close_to_the_linear_programme(kinds, slack):
    """The linear programme deals fractions, of which whole samples can only fall short by one a rank."""
    pace, costs = map(np.array, zip(*kinds, strict=True))
    batch = 2000
    limit = slack * batch / (1 / pace).sum()
    seconds, totals = splits(batch, [1] * len(pace), pace, costs)
    found = (totals @ costs)[seconds <= limit].min()
    ideal = linprog(costs, A_eq=np.ones((1, len(pace))), b_eq=[batch], bounds=[(0, limit / p) for p in pace])
    assert ideal.fun <= found * (1 + 1e-9)
    assert found <= ideal.fun + 2 * costs.sum() + 2 * len(pace) * (costs.max() - costs.min())
    # Without a limit of its own, the least time is that of shares in proportion to speed.
    assert batch / (1 / pace).sum() <= seconds[0] * (1 + 1e-9)
    assert seconds[0] <= batch / (1 / pace).sum() + pace.max()


def work(**changes) -> Work:
    values = {
        "samples": 24,
        "images": 0,
        "epochs": 5,
        "batch_size": 12,
        "divided": True,
        "meeting": lambda ranks: 0.05 * (ranks - 1),
        "epoch_seconds": 0.3,
        "once_seconds": 2.0,
    }
    return Work(**(values | changes))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 2), paces, st.integers(1, 4), st.floats(0, 200), st.floats(0, 50)),
        min_size=1,
        max_size=2,
    ),
    st.floats(1, 3),
)
def test_a_policy_takes_the_best_of_all_choices(measured, slack):
    """Against every number of ranks and every split of the batch, also such that leave a rank out."""
    kinds = [
        Kind(str(number), pace, 0.0, cores, 1, available, idle + more, idle)
        for number, (available, pace, cores, more, idle) in enumerate(measured)
    ]
    every = []
    for counts in itertools.product(*(range(kind.available + 1) for kind in kinds)):
        order = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
        for split in shares_of(12, len(order), least=0) if order else ():
            busy = [kind.pace * samples for kind, samples in zip(order, split, strict=True)]
            seconds = 2 + 5 * (2 * (max(busy) + 0.05 * (len(order) - 1)) + 0.3)
            joules = sum(
                (kind.busy_watts - kind.idle_watts) * 10 * time + kind.idle_watts * seconds
                for kind, time in zip(order, busy, strict=True)
            )
            every.append((seconds, seconds * sum(kind.cores for kind in order) / 3600, joules))
    figures = np.array(every)
    deadline = slack * figures[:, 0].min()
    allowed = figures[figures[:, 0] <= deadline * (1 + 1e-12)]
    for column, objective in enumerate(["time", "core-hours", "energy"]):
        choices, chosen = allocate(kinds, work(), Policy(objective, deadline * (1 + 1e-12)))
        best = choices[chosen]
        reached = (best.seconds, best.core_hours, best.joules)
        assert reached[column] == pytest.approx(allowed[:, column].min())
        assert sum(best.split) == 12
        assert sum(best.samples) == 24
        for choice in choices:
            row = np.array([choice.seconds, choice.core_hours, choice.joules])
            others = np.array([[one.seconds, one.core_hours, one.joules] for one in choices])
            better = (others <= row).all(axis=1) & (others < row).any(axis=1)
            assert choice.on_front == (not better.any())


SLOW = Kind("slow", 0.5, 0.1, 2, 1, 2, busy_watts=20, idle_watts=5)
FAST = Kind("fast", 0.1, 0.05, 8, 1, 1, busy_watts=100, idle_watts=30)


def test_a_forecast_by_hand():
    """22 samples in batches of 8: two whole ones, dealt 1 + 1 + 6, and 6 samples dealt 1 + 1 + 4."""
    choice = forecast([SLOW, FAST], (2, 1), [2, 6], work(samples=22, images=5, batch_size=8))
    assert choice.split == (1, 1, 6)
    assert choice.samples == (6, 16)
    # 0.6 s for a whole batch, 0.5 s for the last, 0.1 s to average; two images validated on slow ranks.
    assert choice.epoch_seconds == pytest.approx(2 * 0.6 + 0.5 + 3 * 0.1 + 0.2)
    assert choice.seconds == pytest.approx(2 + 5 * (2.2 + 0.3))
    assert choice.core_hours == pytest.approx(14.5 * 12 / 3600)
    slow, fast = 5 * (3 * 0.5 + 0.2), 5 * (16 * 0.1 + 0.05)
    joules = 2 * (20 * slow + 5 * (14.5 - slow)) + 100 * fast + 30 * (14.5 - fast)
    assert choice.joules == pytest.approx(joules)
    assert choice.efficiency == pytest.approx((2 * 2 * slow + 8 * fast) / (12 * 14.5))


def test_the_less_time_there_is_the_more_energy_it_takes():
    """120 samples in all. On one slow rank they take 120 x 7.5 J and 5 W for 63.5 s; on two, 10 W for 33.5 s;
    on the fast one 120 x 7 J and 30 W for 15.5 s."""
    for deadline, ranks, joules in ((70, (1, 0), 1217.5), (40, (2, 0), 1235), (30, (0, 1), 1305)):
        free = work(meeting=lambda ranks: 0.0)
        choices, chosen = allocate([SLOW, FAST], free, Policy("energy", deadline))
        assert (choices[chosen].ranks, choices[chosen].joules) == (ranks, pytest.approx(joules))
    assert allocate([SLOW, FAST], free, Policy("energy", deadline=5.0))[1] is None


def test_within_a_deadline_the_ranks_that_take_least_energy_have_most_to_do():
    """87 J for a sample on the fast rank, 7.5 J on the two slow ones. In 30 s a batch may take 2.5 s: at most
    5 samples on each slow rank, so the fast one must take 2 of 12."""
    costly = Kind("costly", 0.1, 0.0, 8, 1, 1, busy_watts=900, idle_watts=30)
    choices, chosen = allocate([SLOW, costly], work(meeting=lambda ranks: 0.0), Policy("energy", 30))
    best = choices[chosen]
    assert (best.ranks, best.split, best.fastest) == ((2, 1), (5, 5, 2), False)
    assert best.seconds == pytest.approx(2 + 5 * (2 * 2.5 + 0.3))
    quickest = next(each for each in choices if each.ranks == (2, 1) and each.fastest)
    assert quickest.split == (2, 2, 8)


def test_unknown_watts_are_not_invented():
    kinds = [SLOW, Kind("fast", 0.1, 0.05, 8, 1, 1)]
    choices, chosen = allocate(kinds, work(), Policy("time"))
    assert {choice.ranks for choice in choices if choice.joules is not None} == {(1, 0), (2, 0)}
    assert choices[chosen].joules is None
    # Only what is known can be the least.
    choices, chosen = allocate(kinds, work(), Policy("energy"))
    assert choices[chosen].ranks[1] == 0
    with pytest.raises(
        DhhpcError, match=r"--objective energy: the watts of the nodes are unknown; give --watts"
    ):
        allocate(kinds[1:], work(), Policy("energy"))


def test_ranks_that_cannot_train_it_are_left_out():
    """A batch of 12 does not divide by 5, and 3 samples are too few for 4 ranks; nodes come whole."""
    five = [Kind("rank", 0.1, 0.1, 1, 1, 5)]
    assert [choice.ranks for choice in allocate(five, work(), Policy())[0]] == [(1,), (2,), (3,), (4,)]
    few = allocate(five, work(samples=3, divided=False), Policy())[0]
    assert [choice.split for choice in few] == [(3,), (2, 1), (1, 1, 1)]
    nodes = [Kind("rank", 0.1, 0.1, 1, 2, 3)]
    assert [choice.ranks for choice in allocate(nodes, work(), Policy())[0]] == [(2,), (4,), (6,)]
    with pytest.raises(DhhpcError, match=r"--available: 5001 choices are too many"):
        allocate([Kind("rank", 0.1, 0.1, 1, 1, 5001)], work(), Policy())


def test_averaging_on_other_numbers_of_ranks():
    """A rank of n sends 2 (n - 1) / n of the bytes: of two 1, of four 1.5, of eight 1.75."""
    assert averaging_seconds({2: 0.1}, 4) == pytest.approx(0.15)
    assert averaging_seconds({1: 9.0, 2: 0.1, 8: 0.5}, 16) == pytest.approx(0.5 * (15 / 16) / (7 / 8))
    assert averaging_seconds({2: 0.1, 8: 0.5}, 2) == 0.1
    assert averaging_seconds({2: 0.1}, 1) == averaging_seconds({1: 0.1}, 8) == 0
    assert math.isclose(averaging_seconds({2: 1.0}, 10**6), 2, rel_tol=1e-5)
