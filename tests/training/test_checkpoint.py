"""Checkpoints: what is kept, what is best, and what damage does."""

import numpy as np
import pytest

from dhhpc.errors import DhhpcError
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder


def checkpoint(epoch, score=None, samples=0):
    state = {"parameters/a.weight": np.full(50, epoch, np.float32), "optimizer/step_count": np.array(epoch)}
    return Checkpoint(epoch, samples, 2, state, [{"loss": 0.5}], {"samples": 3.0}, 1.5, score)


def names(folder):
    return [path.stem.split("-sample")[0] for path in folder.descriptions()]


def test_round_trip(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(checkpoint(4, 0.25, samples=7))
    (path,) = folder.descriptions()
    found = folder.load(path)
    assert (found.epoch, found.samples, found.ranks) == (4, 7, 2)
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
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
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
    with pytest.raises(DhhpcError, match=path.stem):
        folder.load(path.with_suffix(".json"))


def test_what_ranks_hold_of_their_own(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    for epoch in (1, 2):
        saved = checkpoint(epoch)
        own = [{"optimizer/state": np.full(3, epoch + rank, np.float32)} for rank in range(2)]
        saved.parts = [folder.save_own(saved, rank, state) for rank, state in enumerate(own)]
        folder.save(saved)
    (path,) = folder.descriptions()
    found = folder.load(path)
    assert [folder.load_own(found, rank)["optimizer/state"][0] for rank in range(2)] == [2, 3]
    assert len(list(tmp_path.iterdir())) == 4  # nothing is left of the first one
    (tmp_path / found.parts[1]["arrays"]).write_bytes(b"")
    with pytest.raises(DhhpcError, match=r"rank-00001.npz: the checkpoint is damaged"):
        folder.load_own(found, 1)


def test_without_checkpoints_there_is_none(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.descriptions() == []
    assert folder.best() is None


def test_a_description_of_something_else_is_refused(tmp_path):
    path = tmp_path / "epoch-00001-sample-000000000.json"
    path.write_text('{"arrays": "a.npz"}')
    with pytest.raises(DhhpcError, match="no checkpoint description"):
        CheckpointFolder(tmp_path).load(path)
