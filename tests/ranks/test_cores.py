"""Each rank on cores of its own, on real ranks."""

import json
import os
import subprocess
import sys

import pytest

from dhhpc.mpi import World, pin_to_cores
from dhhpc.mpi.cores import own_part
from dhhpc.mpi.launch import environment_for, mpiexec

CORES = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")

# numpy first: its BLAS starts its threads before the rank is pinned.
PROGRAM = """
import json, os
import numpy
from dhhpc.mpi import connect
from dhhpc.training import use_threads
world = connect()
threads = use_threads(world, None)
numpy.ones((300, 300)) @ numpy.ones((300, 300))
masks = {tuple(sorted(os.sched_getaffinity(int(thread)))) for thread in os.listdir("/proc/self/task")}
rows = world.gather_object((threads, sorted(masks)))
if world.rank == 0:
    print(json.dumps(rows))
"""


def run(command: list[str], ranks: int, **environment: str) -> list[tuple[int, list[list[int]]]]:
    """(threads, the different masks of all its threads) of each rank."""
    unset = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    result = subprocess.run(
        command,
        env=environment_for(ranks, inherited | environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


RANK = [sys.executable, "-c", PROGRAM]


@two_cores
def test_ranks_divide_the_cores():
    rows = run([*mpiexec(2), *RANK], 2)
    masks = [mask for _, (mask,) in rows]  # one mask: all threads of a rank are where it is
    assert sorted(masks[0] + masks[1]) == CORES
    assert [threads for threads, _ in rows] == [len(CORES) // 2] * 2


@two_cores
def test_ranks_that_mpi_takes_for_other_machines_divide_the_cores_too():
    """As it does those of virtual nodes; MPICH is told to take every rank for one."""
    apart = PROGRAM.replace("world = connect()", "world = connect(); assert world.local_size == 1")
    rows = run([*mpiexec(2), sys.executable, "-c", apart], 2, MPIR_CVAR_NOLOCAL="1")
    masks = [mask for _, (mask,) in rows]
    assert sorted(masks[0] + masks[1]) == CORES
    assert [threads for threads, _ in rows] == [len(CORES) // 2] * 2


@two_cores
def test_ranks_that_are_bound_stay_where_they_are():
    launcher = mpiexec(2)[:-2]
    bound = [["-n", "1", "taskset", "-c", str(core), *RANK] for core in CORES[1::-1]]
    rows = run([*launcher, *bound[0], ":", *bound[1]], 2)
    assert rows == [[1, [[core]]] for core in CORES[1::-1]]


def test_more_ranks_than_cores_are_left_alone():
    rows = run(["taskset", "-c", str(CORES[0]), *mpiexec(2), *RANK], 2)
    assert rows == [[1, [[CORES[0]]]]] * 2


# Rank 0 is late to every collective; what the other one waits for it in seconds of its core.
WAITING = """
import json, time
import numpy
from dhhpc.mpi import connect
world = connect()
array = numpy.ones(3)
waits = {
    "barrier": world.barrier,
    "sum": lambda: world.allreduce_sum(array),
    "maximum": lambda: world.allreduce_max(array),
    "pending": lambda: world.begin_sum(array).wait(),
    "broadcast": lambda: world.broadcast(array),
    "objects": lambda: world.allgather_object(1),
    "exchange": lambda: world.exchange({1 - world.rank: numpy.ones(3)}, {1 - world.rank: array}),
}
spent = {}
for name, wait in waits.items():
    world.barrier()
    if world.rank == 0:
        time.sleep(0.4)
    started = time.process_time()
    wait()
    spent[name] = time.process_time() - started
rows = world.gather_object((world.crowded, spent))
if world.rank == 0:
    print(json.dumps(rows))
"""


def test_more_ranks_than_cores_wait_without_using_them():
    rows = run(["taskset", "-c", str(CORES[0]), *mpiexec(2), sys.executable, "-c", WAITING], 2)
    assert [crowded for crowded, _ in rows] == [True, True]
    assert max(rows[1][1].values()) < 0.1, rows[1][1]


@two_cores
def test_ranks_with_cores_of_their_own_are_not_crowded():
    rows = run([*mpiexec(2), sys.executable, "-c", WAITING.replace("sleep(0.4)", "sleep(0)")], 2)
    assert [crowded for crowded, _ in rows] == [False, False]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"])
def test_fewer_threads_may_be_asked_for(name):
    assert run(RANK, 1, **{name: "1"}) == [[1, [CORES]]]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3,1", "SLURM_CPUS_PER_TASK": "2"}, 3),
        ({"SLURM_CPUS_PER_TASK": "64"}, 8),
    ],
)
def test_default_threads(environment, threads, monkeypatch):
    from dhhpc_kernels import default_threads

    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_threads(8) == threads


def test_a_world_of_one_keeps_its_cores():
    assert pin_to_cores(World()) == set(CORES)
    assert sorted(os.sched_getaffinity(0)) == CORES


def hyperthreads(core: int) -> tuple[int, int]:
    """Two packages of two cores of two threads, numbered as Linux does: 0 to 3, then their siblings."""
    return core % 4 // 2, core % 4


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (3, [[0, 1, 4, 5], [2, 6], [3, 7]]),
        (4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (8, [[0], [4], [1], [5], [2], [6], [3], [7]]),
        (9, [[0, 1, 2, 3, 4, 5, 6, 7]] * 9),
    ],
)
def test_hardware_threads_of_a_core_stay_together(count, parts):
    assert [own_part(range(8), index, count, hyperthreads) for index in range(count)] == parts
