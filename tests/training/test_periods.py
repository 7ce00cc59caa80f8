"""How long ranks train alone: each way's periods over the epochs, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhhpc.training.periods import (
    AutoTime,
    Fixed,
    Increasing,
    LimitOverhead,
    NegativeSawtooth,
    Sawtooth,
    SlowStart,
)


def record(period, seconds=1.0, communication=0.1, compute=0.9, batches=10, averagings=1):
    ranks = [
        {"data": 0.0, "compute": compute, "communication": communication, "wait": 0.0},
        {"data": 0.0, "compute": compute / 2, "communication": communication / 2, "wait": 5.0},
    ]
    return {
        "period": period,
        "seconds": seconds,
        "ranks": ranks,
        "batches": batches,
        "averagings": averagings,
    }


@pytest.mark.parametrize(
    ("way", "periods"),
    [
        (Fixed(8), [8] * 8),
        (Increasing(1, 8, 1), [1, 2, 4, 8, 8, 8, 8, 8]),
        (Increasing(3, 20, 2), [3, 3, 6, 6, 12, 12, 20, 20]),
        (Sawtooth(1, 4, 1), [1, 2, 4, 1, 2, 4, 1, 2]),
        (Sawtooth(2, 4, 2), [2, 2, 4, 4, 2, 2, 4, 4]),
        (Sawtooth(5, 5, 1), [5] * 8),
        (NegativeSawtooth(1, 4, 1), [4, 2, 1, 4, 2, 1, 4, 2]),
        (SlowStart(8, 0, 0), [8] * 8),
        (SlowStart(8, 2, 4), [1, 1, 1, 2, 4, 6, 8, 8]),
    ],
)
def test_periods_of_the_epochs(way, periods):
    assert [way.batches(epoch, []) for epoch in range(8)] == periods


def follow(way, seconds_of, epochs):
    """The periods that a way chooses where an epoch takes as long as its period tells."""
    history = []
    for epoch in range(epochs):
        period = way.batches(epoch, history)
        history.append(record(period, seconds_of(period)))
    return [epoch["period"] for epoch in history]


def test_the_period_follows_the_epoch_time():
    """1 s of work and 1 s of averaging at every batch: 2, 1.5, 1.25, 1.125 s. Less than 15 % is no gain."""
    chosen = follow(AutoTime(1, 64, 1, 0.15), lambda period: 1 + 1 / period, 7)
    assert chosen == [1, 2, 4, 8, 4, 4, 4]
    assert follow(AutoTime(1, 4, 2, 0.01), lambda period: 1 + 1 / period, 8) == [1, 1, 2, 2, 4, 4, 4, 4]
    assert follow(AutoTime(2, 64, 1, 0.05), lambda period: 1.0, 5) == [2, 4, 2, 2, 2]


def test_communication_is_kept_under_its_share():
    """0.1 s an averaging and 0.09 s a batch: after 10 batches it is exactly a tenth."""
    way = LimitOverhead(1, 100, 0.1)
    assert way.batches(0, []) == 1
    assert way.batches(1, [record(1)]) == 10
    assert way.batches(1, [record(1, communication=0.0)]) == 1
    assert way.batches(1, [record(1, communication=50.0)]) == 100
    assert way.batches(1, [record(7, averagings=0)]) == 7


@given(
    share=st.floats(0.01, 0.9),
    communication=st.floats(1e-6, 10),
    work=st.floats(1e-6, 10),
    averagings=st.integers(1, 50),
)
def test_the_period_is_the_shortest_that_keeps_the_share(share, communication, work, averagings):
    last = record(1, communication=communication * averagings, compute=work * 10, averagings=averagings)
    period = LimitOverhead(1, 10**9, share).batches(1, [last])

    def part(batches):
        return communication / (communication + batches * work)

    assert part(period) <= share * (1 + 1e-9)
    assert period == 1 or part(period - 1) > share * (1 - 1e-9)
