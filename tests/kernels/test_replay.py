"""Kernels run again without Python: what they compute, on how many threads, and what becomes of errors."""

import gc
import threading

import dhhpc_kernels
import numpy as np
import pytest
from dhhpc_kernels import parallel
from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.meetings import meet, new_arrivals
from dhhpc_kernels.parallel import run_parallel, shares
from dhhpc_kernels.replay import record
from dhhpc_kernels.turns import new_turns, take_turn


@compile_kernel
def double(numbers, first, last):
    for i in range(first, last):
        numbers[i] *= 2


@compile_kernel
def turn_over(numbers, out, first, last):
    """out = numbers the other way round: reads what other threads have written."""
    for i in range(first, last):
        out[i] = numbers[len(numbers) - 1 - i]


@compile_kernel
def count_turns(turns, units, taken):
    unit = take_turn(turns)
    while unit < units:
        taken[unit] += 1
        unit = take_turn(turns)


@compile_kernel
def sum_up(numbers, sums, arrivals, part, parts):
    """All parts of the sums, each of a part of the numbers, are added by each."""
    sums[part] = 0
    for i in range(part, len(numbers), parts):
        sums[part] += numbers[i]
    meet(arrivals, parts, 1)
    total = 0.0
    for i in range(parts):
        total += sums[i]
    meet(arrivals, parts, 2)
    sums[part] = total


@compile_kernel
def fail_at(place, wrong):
    if place[0] == wrong:
        raise ValueError("a number")


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = dhhpc_kernels.threads()
    dhhpc_kernels.set_threads(request.param)
    yield request.param
    dhhpc_kernels.set_threads(before)


def test_kernels_run_again_in_order_each_after_the_one_before(threads):
    numbers, out = np.arange(1000.0), np.zeros(1000)

    def code():
        for _ in range(20):
            run_parallel(double, [(numbers, first, last) for first, last in shares(1000, threads)])
            run_parallel(turn_over, [(numbers, out, first, last) for first, last in shares(1000, threads)])
            run_parallel(turn_over, [(out, numbers, 0, 1000)])
            run_parallel(turn_over, [(out, numbers, 0, 1000)])

    replay = record(code)
    expected = np.arange(1000.0)
    for _ in range(20):
        expected *= 2
    assert numbers.tolist() == expected.tolist()
    for _ in range(30):
        numbers[:] = start = np.random.default_rng(1).standard_normal(1000)
        replay.run()
        assert numbers.tolist() == (start * 2**20).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_call_of_any_number_runs_once(threads, count):
    numbers = np.ones(count)
    replay = record(lambda: run_parallel(double, [(numbers, i, i + 1) for i in range(count)]))
    for _ in range(5):
        replay.run()
    assert numbers.tolist() == [64] * count


def test_turns_and_meetings_begin_anew(threads):
    taken, numbers, sums = np.zeros(100), np.arange(50.0), np.zeros(threads)

    def code():
        for _ in range(3):
            turns, arrivals = new_turns(), new_arrivals()
            run_parallel(count_turns, [(turns, 100, taken)] * threads)
            run_parallel(sum_up, [(numbers, sums, arrivals, i, threads) for i in range(threads)])

    replay = record(code)
    for run in range(1, 40):
        assert taken.tolist() == [3 * run] * 100
        assert sums.tolist() == [numbers.sum()] * threads
        numbers += 1
        replay.run()


def test_arguments_are_kept(threads):
    seen = np.zeros(3000)
    replay = record(lambda: run_parallel(turn_over, [(np.arange(3000.0), seen, 0, 3000)]))
    seen[:] = 0
    gc.collect()
    for _ in range(20):
        np.full(3000, np.nan)  # would take the place of what nobody keeps
    replay.run()
    assert seen.tolist() == list(range(2999, -1, -1))


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_kernel_that_fails_is_named_and_ends_the_run(threads, place):
    bad = 0 if place == "first" else threads - 1
    places, numbers, sums = np.zeros((threads, 1)), np.ones(90), np.zeros(threads)

    def code():
        arrivals = new_arrivals()
        run_parallel(fail_at, [(places[i], 1.0) for i in range(threads)])
        run_parallel(sum_up, [(numbers, sums, arrivals, i, threads) for i in range(threads)])
        run_parallel(double, [(numbers, 0, 90)])

    replay = record(code)
    places[bad] = 1
    with pytest.raises(RuntimeError, match=r"^fail_at failed"):
        replay.run()
    places[bad] = 0
    numbers[:] = 1
    replay.run()
    assert (sums.tolist(), numbers.tolist()) == ([90] * threads, [2] * 90)


def test_a_signal_while_threads_begin_leaves_none_of_them_waiting(monkeypatch):
    before = dhhpc_kernels.threads()
    dhhpc_kernels.set_threads(3)
    try:
        numbers, sums = np.ones(90), np.zeros(3)

        def code():
            arrivals = new_arrivals()
            run_parallel(sum_up, [(numbers, sums, arrivals, i, 3) for i in range(3)])
            run_parallel(double, [(numbers, 0, 90)])

        def interrupt(*_):
            raise KeyboardInterrupt

        replay = record(code)
        last = parallel._pool.workers[1]
        monkeypatch.setattr(last, "begin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replay.run()
        monkeypatch.undo()
        numbers[:] = 1
        replay.run()
        assert (sums.tolist(), numbers.tolist()) == ([90] * 3, [2] * 90)
    finally:
        dhhpc_kernels.set_threads(before)


def test_what_is_no_kernel_cannot_run_again(threads):
    numbers = np.ones(4)

    def code():
        run_parallel(double, [(numbers, 0, 4)])
        run_parallel(lambda first: numbers.__setitem__(first, 0), [(0,), (1,)])

    assert record(code) is None
    assert numbers.tolist() == [0, 0, 2, 2]


def test_more_counters_than_there_is_room_for():
    taken = np.zeros(5)

    def code():
        run_parallel(count_turns, [(new_turns(1_000_000), 5, taken)])

    assert record(code) is None
    assert taken.tolist() == [1] * 5


def test_another_thread_is_not_recorded(threads):
    numbers, others = np.ones(4), np.ones(4)

    def code():
        other = threading.Thread(target=run_parallel, args=(double, [(others, 0, 4)]))
        other.start()
        other.join()
        run_parallel(double, [(numbers, 0, 4)])

    replay = record(code)
    replay.run()
    assert (numbers[0], others[0]) == (4, 2)


def test_nothing_is_recorded_after_an_error():
    numbers = np.ones(4)

    def code():
        run_parallel(double, [(numbers, 0, 4)])
        raise KeyError

    with pytest.raises(KeyError):
        record(code)
    assert record(lambda: None) is not None
    record(lambda: None).run()


def test_it_fits_the_threads_that_it_was_made_for(threads):
    replay = record(lambda: None)
    assert replay.fits
    dhhpc_kernels.set_threads(threads + 1)
    assert not replay.fits
