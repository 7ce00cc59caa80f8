"""Real ranks, and what they share."""

from pathlib import Path

import pytest

from dhhpc.mpi import connect
from tests import synthetic


@pytest.fixture
def world():
    return connect()


@pytest.fixture
def shared(world, tmp_path_factory) -> Path:
    """One folder for all ranks."""
    folder = tmp_path_factory.mktemp("ranks") if world.rank == 0 else None
    return Path(world.broadcast_object(folder))


@pytest.fixture
def shards(world, shared) -> Path:
    """19 training images: with batches of 4 on 2 ranks the last batch has 2 samples for one and 1 for the
    other."""
    if world.rank == 0:
        synthetic.write_discs(shared / "shards", {"training": 19, "validation": 5})
    world.barrier()
    return shared / "shards"
