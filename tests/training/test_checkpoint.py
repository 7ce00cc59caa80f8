"""Checkpoints: what is kept, what is best, and what damage does."""

import numpy as np
import pytest

from dhhpc.errors import DhhpcError
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder


def checkpoint(epoch, score=None, batch=0):
    state = {"parameters/a.weight": np.full(50, epoch, np.float32), "optimizer/step_count": np.array(epoch)}
    return Checkpoint(epoch, batch, 2, 8, state, [{"loss": 0.5}], {"samples": 3.0}, 1.5, score)


def names(folder):
    return [path.stem.split("-batch")[0] for path in folder.descriptions()]


def test_round_trip(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(4, 0.25, batch=7))
    found = folder.newest(pytest.fail)
    assert found is not None
    assert (found.epoch, found.batch, found.ranks, found.global_batch) == (4, 7, 2, 8)
    assert (found.history, found.sums, found.seconds, found.score) == (
        [{"loss": 0.5}],
        {"samples": 3.0},
        1.5,
        0.25,
    )
    assert found.state["parameters/a.weight"].tolist() == [4] * 50
    assert found.state["optimizer/step_count"] == 4


def test_keeps_the_newest_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for epoch, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.2], start=1):
        folder.save(checkpoint(epoch, score))
    assert names(folder) == ["epoch-00002", "epoch-00004", "epoch-00005"]
    best = folder.best()
    assert best is not None
    assert folder.load(best).epoch == 2
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "description"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(1))
    path = folder.save(checkpoint(2))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[200] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")
    heard: list[str] = []
    found = folder.newest(heard.append)
    assert found is not None
    assert found.epoch == 1
    assert len(heard) == 1
    assert path.stem in heard[0]
    assert "going on from the checkpoint before it" in heard[0]


def test_without_checkpoints_there_is_none(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.newest(pytest.fail) is None
    assert folder.best() is None


def test_a_description_of_something_else_is_refused(tmp_path):
    path = tmp_path / "epoch-00001-batch-0000000.json"
    path.write_text('{"arrays": "a.npz"}')
    with pytest.raises(DhhpcError, match="no checkpoint description"):
        CheckpointFolder(tmp_path).load(path)
