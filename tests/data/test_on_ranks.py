"""Preprocessing and loading on real MPI ranks: mpiexec -n 2 python -m pytest --with-mpi -m mpi tests/data."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dhhpc.data import Loader, ShardSet, preprocess, read_preprocess
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, connect

pytestmark = pytest.mark.mpi(min_size=2)


@pytest.fixture(scope="module")
def world():
    return connect()


@pytest.fixture
def study(volumes, world):
    """One study for all ranks, written by rank 0; removed by it at the end."""
    root = volumes(9) if world.rank == 0 else None
    root = Path(world.broadcast_object(str(root)))
    yield root
    world.barrier()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


def test_shards_are_the_same_bytes_as_on_one_rank(study, world):
    document = read_preprocess(study / "preprocess.yml")
    summary = preprocess(document, world)
    assert set(map(str, world.allgather_object(summary))) == {str(summary)}
    assert (summary.written, summary.reused) == (5, 0)
    several = contents(study / "shards")
    assert preprocess(document, world).reused == 5
    world.barrier()
    if world.rank == 0:
        shutil.rmtree(study / "shards")
        preprocess(document, World())
        assert contents(study / "shards") == several
    world.barrier()


def test_an_error_on_one_rank_is_raised_on_all(study, world):
    if world.rank == 0:
        (study / "scan2.nii.gz").write_bytes(b"damaged")  # in the second shard: that of rank 1
    world.barrier()
    with pytest.raises(DhhpcError) as caught:
        preprocess(read_preprocess(study / "preprocess.yml"), world)
    messages = world.allgather_object(str(caught.value))
    assert set(messages) == {str(caught.value)}
    assert "scan2.nii.gz" in messages[0]
    assert not list(study.glob("shards/.*"))


def test_ranks_together_draw_the_batches_of_one_rank(study, world):
    preprocess(read_preprocess(study / "preprocess.yml"), world)
    shards = ShardSet(study / "shards")
    options = {"seed": 3, "patch": {"size": [5, 7], "per_image": 2, "foreground": 0.5}}
    mine = Loader(shards, "training", 3, world.rank, world.size, **options).epoch(1)
    gathered = world.allgather_object(list(mine))
    alone = list(Loader(shards, "training", 3 * world.size, **options).epoch(1))
    for batch, *parts in zip(alone, *gathered, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), batch.images)
        np.testing.assert_array_equal(np.concatenate([part.targets for part in parts]), batch.targets)
