"""Collectives on real ranks: `mpiexec -n 2 python -m pytest --with-mpi -m mpi`."""

import os

import numpy as np
import pytest

from dhhpc.mpi import World, average, connect, cores_per_rank


def test_a_world_of_one_keeps_arrays():
    world = World()
    values = np.arange(3, dtype=np.float32)
    world.allreduce_sum(values)
    world.allreduce_mean(values, weight=5)
    average(world, [values], weight=0)
    assert values.tolist() == [0, 1, 2]
    assert world.gather_object("a") == ["a"]
    assert world.messages == 0
    assert cores_per_rank(world) == len(os.sched_getaffinity(0))


@pytest.mark.mpi
def test_sizes_agree_with_the_launcher():
    world = connect()
    assert world.size == int(os.environ["PMI_SIZE"])
    assert world.rank == int(os.environ["PMI_RANK"])
    assert world.local_size == world.size
    assert world.local_rank == world.rank


@pytest.mark.mpi
def test_weighted_mean_of_vectors():
    world = connect()
    everything = [
        np.random.default_rng(rank).normal(size=1000).astype(np.float32) for rank in range(world.size)
    ]
    weights = [3.0 * rank + 1 for rank in range(world.size)]
    mine = everything[world.rank].copy()
    average(world, [mine, np.empty(0, dtype=np.float32)], weights[world.rank])
    expected = np.average(np.array(everything, dtype=np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)
    bits = world.allgather_object(mine.tobytes())
    assert len(set(bits)) == 1


@pytest.mark.mpi
def test_a_known_total_saves_a_message():
    world = connect()
    values = np.full(4, world.rank, dtype=np.float32)
    world.allreduce_mean(values, weight=1, total=world.size)
    assert values.tolist() == [(world.size - 1) / 2] * 4
    assert world.messages == 1
    assert world.bytes_sent == 16


@pytest.mark.mpi
def test_weights_of_zero_keep_the_array():
    world = connect()
    values = np.full(4, world.rank, dtype=np.float32)
    world.allreduce_mean(values, weight=0)
    assert values.tolist() == [world.rank] * 4


@pytest.mark.mpi
def test_objects_and_maxima():
    world = connect()
    assert world.broadcast_object(f"from {world.rank}") == "from 0"
    assert world.allgather_object(world.rank) == list(range(world.size))
    gathered = world.gather_object(world.rank)
    assert gathered == (list(range(world.size)) if world.rank == 0 else None)
    values = np.array([world.rank, -world.rank])
    world.allreduce_max(values)
    assert values.tolist() == [world.size - 1, 0]
    array = np.full(3, world.rank)
    world.broadcast(array, root=world.size - 1)
    assert array.tolist() == [world.size - 1] * 3


@pytest.mark.mpi
def test_neighbours_exchange_arrays():
    world = connect()
    above, below = world.rank - 1, world.rank + 1
    neighbours = [rank for rank in (above, below) if 0 <= rank < world.size]
    # Large enough that a send alone would wait for its receiver.
    outgoing = {rank: np.full(300_000, 10 * world.rank + rank, np.float32) for rank in neighbours}
    incoming = {rank: np.empty(300_000, np.float32) for rank in neighbours}
    world.exchange(outgoing, incoming)
    for rank in neighbours:
        assert (incoming[rank] == 10 * rank + world.rank).all()
    assert world.messages == len(neighbours)
    assert world.bytes_sent == 1_200_000 * len(neighbours)
    assert world.seconds > 0
    world.exchange({}, {})
    assert world.messages == len(neighbours)
