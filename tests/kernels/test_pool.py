"""The threads of the kernels: every call once, errors told, any number of rounds, awake or asleep."""

import subprocess
import sys
import threading
import time
from typing import NamedTuple

import dhhpc_kernels.entries
import numpy as np
import pytest
from dhhpc_kernels.compilation import compile_kernel
from dhhpc_kernels.meetings import meet, new_arrivals
from dhhpc_kernels.pool import Pool


@pytest.fixture(params=[1, 20_000], ids=["sleeping", "awake"])
def pool(request):
    pool = Pool(2, request.param)
    yield pool
    pool.stop()
    assert not any(worker.is_alive() for worker in pool.workers)


def test_every_call_runs_once_in_every_round(pool):
    for count in (1, 2, 3, 7):
        for _ in range(300):
            done = []
            pool.run(lambda number, done=done: done.append(number), [(i,) for i in range(count)])
            assert sorted(done) == list(range(count))


def test_calls_run_beside_each_other(pool):
    barrier = threading.Barrier(3, timeout=20)
    pool.run(barrier.wait, [()] * 3)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_surfaces_once_all_have_ended(pool, bad):
    ended = []

    def task(number):
        if number == bad:
            raise KeyError(number)
        time.sleep(0.01)
        ended.append(number)

    with pytest.raises(KeyError, match=str(bad)):
        pool.run(task, [(0,), (1,), (2,)])
    assert len(ended) == 2
    pool.run(ended.append, [(5,), (6,), (7,)])
    assert sorted(ended)[2:] == [5, 6, 7]


class Numbers(NamedTuple):
    values: np.ndarray
    pair: tuple[int, float]
    negative: bool


@compile_kernel
def write_numbers(numbers, columns, factor, single, out, number):
    sign = -1 if numbers.negative else 1
    rows = numbers.values[number:]  # counts references, where it has any
    out[number] = sign * rows[0] * numbers.pair[0] + numbers.pair[1] * factor + columns[2, number] + single


@compile_kernel
def fail(number):
    if number >= 0:
        raise ValueError("a number")


@compile_kernel
def pass_on(numbers, arrivals, number, parties):
    """Each in turn adds to what the one before has written."""
    for round_ in range(100):
        for turn in range(parties):
            if turn == number:
                numbers[0] = 2 * numbers[0] % 1_000_003 + number
            meet(arrivals, parties, round_ * parties + turn + 1)


def test_a_kernel_gets_its_arguments_on_every_thread_and_keeps_none(pool):
    values, columns = np.arange(3.0), np.arange(9, dtype=np.float32).reshape(3, 3).T
    before = sys.getrefcount(values), sys.getrefcount(columns)
    for _ in range(200):
        out = np.full(3, np.nan)
        numbers = Numbers(values, (3, 0.5), True)
        pool.run(write_numbers, [(numbers, columns, 4, np.float32(0.25), out, i) for i in range(3)])
        assert out.tolist() == [-3 * i + 2 + columns[2, i] + 0.25 for i in range(3)]
    del numbers
    assert (sys.getrefcount(values), sys.getrefcount(columns)) == before


def test_calls_of_different_types_are_refused(pool):
    with pytest.raises(TypeError, match=r"calls of fail differ: int64 and float64"):
        pool.run(fail, [(-1,), (-1,), (-1.0,)])


@pytest.mark.parametrize("bad", [0, 2])
def test_a_kernel_that_fails_is_named(pool, bad):
    calls = [(-1,)] * 3
    pool.run(fail, calls)
    calls[bad] = (1,)
    with pytest.raises(RuntimeError, match=r"^fail failed: there is no memory left"):
        pool.run(fail, calls)
    pool.run(fail, [(-1,)] * 3)


def test_an_interrupted_caller_leaves_the_pool_usable(pool):
    """Its thread still works, with arguments that nobody else keeps, when the next call comes."""
    started = threading.Event()

    def slow(number):
        if number == 0:
            started.wait(20)
            raise KeyboardInterrupt
        started.set()
        time.sleep(0.05)

    finish = pool.workers[0].finish
    pool.workers[0].finish = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.run(slow, [(0,), (1,)])
    pool.workers[0].finish = finish
    out = np.zeros(3)
    pool.run(
        write_numbers,
        [
            (Numbers(np.ones(3), (1, 0.0), False), np.zeros((3, 3), np.float32).T, 0, np.float32(0), out, i)
            for i in range(3)
        ],
    )
    assert out.tolist() == [1, 1, 1]


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_an_interrupted_caller_lets_nobody_wait_for_it(pool, monkeypatch, begun):
    """A signal comes when so many of two threads have begun and wait for the caller inside a kernel."""

    def interrupt(*_):
        raise KeyboardInterrupt

    if begun < 2:
        pool.workers[begun].begin = interrupt
    else:
        monkeypatch.setattr(dhhpc_kernels.entries.Entry, "run", interrupt)
    numbers, arrivals = np.ones(1, np.int64), new_arrivals()
    with pytest.raises(KeyboardInterrupt):
        pool.run(pass_on, [(numbers, arrivals, i, 3) for i in range(3)])
    monkeypatch.undo()
    for worker in pool.workers:
        worker.__dict__.pop("begin", None)
    numbers, arrivals = np.ones(1, np.int64), new_arrivals()
    pool.run(pass_on, [(numbers, arrivals, i, 3) for i in range(3)])
    assert arrivals.counter[0] == 900


def test_several_callers_take_turns(pool):
    """A kernel of one must not get the arguments of the other's."""
    outs = np.zeros((2, 3))

    def call_often(caller):
        for turn in range(300):
            numbers = Numbers(np.full(3, float(turn)), (1, 0.0), False)
            columns, out = np.full((3, 3), caller, np.float32).T, outs[caller]
            pool.run(write_numbers, [(numbers, columns, 0, np.float32(0), out, i) for i in range(3)])
            assert out.tolist() == [turn + caller] * 3
        ended.append(caller)

    ended = []
    callers = [threading.Thread(target=call_often, args=(caller,)) for caller in (0, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert sorted(ended) == [0, 1]


def test_threads_meet_inside_a_kernel(pool):
    numbers, arrivals = np.ones(1, np.int64), new_arrivals()
    pool.run(pass_on, [(numbers, arrivals, i, 3) for i in range(3)])
    expected = 1
    for _ in range(100):
        for i in range(3):
            expected = 2 * expected % 1_000_003 + i
    assert numbers[0] == expected


def test_idle_threads_take_no_time(pool):
    pool.run(int, [(), (), ()])
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


def test_a_process_ends_with_its_pool_and_a_forked_child_gets_its_own():
    code = """
import os, dhhpc_kernels, numpy
from dhhpc_kernels.parallel import run_parallel
dhhpc_kernels.set_threads(3)
done = []
run_parallel(done.append, [(1,), (2,), (3,)])
child = os.fork()
if child == 0:
    run_parallel(done.append, [(4,), (5,), (6,)])
    os._exit(len(done))
print(sum(done), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.stdout, ended.returncode) == ("6 6\n", 0), ended.stderr
