"""The threads of the kernels: every call once, errors told, any number of rounds, awake or asleep."""

import subprocess
import sys
import threading
import time

import pytest
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
