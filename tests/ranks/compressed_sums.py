"""Compressed sums of drawn vectors, checked on every rank: `mpiexec -n N python compressed_sums.py`."""

import math

import numpy as np

from dhhpc.mpi import BFloat16, CompressedSum, Float16, TopK, World, connect

STEPS, SIZE = 12, 1003
PIECES = [(0, 500), (500, 501), (501, 501), (501, 1003)]


def check(world: World, compression) -> None:
    """Pieces of 500, 1, 0 and 502 numbers, some of them tested for while others begin."""
    together = CompressedSum(world, SIZE, compression)
    rng = np.random.default_rng(1)
    given, received = np.zeros(SIZE), np.zeros(SIZE)
    messages, sent = world.messages, world.bytes_sent
    for _ in range(STEPS):
        drawn = (rng.normal(size=(world.size, SIZE)) * 10 ** rng.uniform(-6, 0, SIZE)).astype(np.float32)
        given += drawn.sum(axis=0, dtype=np.float64)
        mine = drawn[world.rank].copy()
        pending = []
        for start, end in reversed(PIECES):
            pending.append(together.begin(mine[start:end], start))
            if world.rank % 2:  # ranks find out at times of their own
                for each in pending:
                    each.arrived()
        for each in reversed(pending):
            each.wait()
        assert all(each.arrived() for each in pending)
        assert len(set(world.allgather_object(mine.tobytes()))) == 1
        received += mine
    lengths = [end - start for start, end in PIECES]
    if isinstance(compression, TopK):
        step = 8 * sum(math.ceil(length * compression.ratio) for length in lengths)
    else:
        head = 4 if isinstance(compression, Float16) else 0
        step = sum(world.size * (head + 2 * math.ceil(length / world.size)) for length in lengths)
    counted = world.messages - messages, world.bytes_sent - sent
    assert counted == (STEPS * (len(lengths) + 1), STEPS * step)
    unsent = together.unsent.astype(np.float64)
    world.allreduce_sum(unsent)
    np.testing.assert_allclose(received + unsent, given, rtol=1e-5, atol=1e-6 * STEPS)
    scale = np.abs(given).max()
    assert 0 < np.abs(received - given).max() < (scale if isinstance(compression, TopK) else scale / 50)


if __name__ == "__main__":
    world = connect()
    for each in (Float16(), BFloat16(), TopK(0.05)):
        check(world, each)
    print("as expected")
