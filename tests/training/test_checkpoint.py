"""Checkpoints: what they hold, what is kept, what is best, and what damage does."""

import hashlib
import itertools
import json

import numpy as np
import pytest

from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder, EarlierFormatError
from dhhpc.training.checkpoint_writer import CheckpointWriter
from dhhpc.training.layout import Layout


def arrays(value):
    return {
        "parameters/a.weight": np.full((5, 10), value, np.float32),
        "empty": np.zeros(0, np.float32),
        "optimizer/step_count": np.array(value),
    }


def checkpoint(epoch, score=None, samples=0):
    return Checkpoint(epoch, samples, 1, [{"loss": 0.5}], {"samples": 3.0}, 1.5, score)


def writer_into(folder, failed=lambda line: None, written=lambda *values: None):
    return CheckpointWriter(folder, World(), 1, failed, written)


def save(folder, saved, own=None):
    """Its description and its only part."""
    writer = writer_into(folder)
    writer.begin(saved, arrays(saved.epoch), own or {})
    writer.finish()
    return folder.description(saved), folder.part(saved, 0)


def names(folder):
    return [path.stem.split("-sample")[0] for path in folder.descriptions()]


def test_round_trip(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path, part = save(folder, checkpoint(4, 0.25, samples=7), own={"a": np.arange(3, dtype=np.int16)})
    assert folder.descriptions() == [path]
    found = folder.load(path)
    assert (found.epoch, found.samples, found.ranks) == (4, 7, 1)
    assert (found.history, found.sums, found.seconds, found.score) == (
        [{"loss": 0.5}],
        {"samples": 3.0},
        1.5,
        0.25,
    )
    state = folder.state(found)
    assert state["parameters/a.weight"].tolist() == [[4] * 10] * 5
    assert state["empty"].shape == (0,)
    assert state["optimizer/step_count"] == 4
    assert folder.own(found, found.parts[0])["a"].tolist() == [0, 1, 2]
    # Its bytes in order, and nothing else; little-endian as the machine.
    expected = np.full(50, 4, "<f4").tobytes() + np.array(4, "<i8").tobytes()
    assert part.read_bytes() == expected + np.arange(3, dtype="<i2").tobytes()
    assert found.parts[0].sha256 == hashlib.sha256(part.read_bytes()).hexdigest()
    assert sorted(tmp_path.iterdir()) == sorted([path, part])


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    """And changes the arrays, of which the checkpoint holds what they were; all use one copy."""
    folder, told = CheckpointFolder(tmp_path), []
    writer = writer_into(folder, written=lambda *values: told.append(values))
    array = np.ones(2**24, np.float32)
    for epoch in (1, 2):
        array[:] = epoch
        writer.begin(checkpoint(epoch), {"a": array}, {})
        array[:] = 0
        assert len(folder.descriptions()) == epoch - 1  # 64 MB are not on the disk in no time
        writer.look()
        assert len(told) == epoch - 1
    writer.finish()
    assert [(values[0], values[3]) for values in told] == [(path, 2**26) for path in folder.descriptions()]
    for epoch, path in enumerate(folder.descriptions(), start=1):
        found = folder.load(path)
        folder.check(found, found.parts[0])
        assert (folder.state(found)["a"] == epoch).all()


def test_keeps_the_newest_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for epoch, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.2], start=1):
        save(folder, checkpoint(epoch, score))
    assert names(folder) == ["epoch-00002", "epoch-00004", "epoch-00005"]
    best = folder.best()
    assert best is not None
    assert folder.load(best).epoch == 2
    assert len(list(tmp_path.iterdir())) == 6


def test_what_killed_runs_left_is_removed_and_what_is_set_aside_stays_until_another_is_written(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=1)
    whole, _ = save(folder, checkpoint(2))
    damaged, part = save(folder, checkpoint(3))
    save(folder, checkpoint(2))
    left = [
        ".epoch-00009-sample-000000000-rank-00001.part.77.tmp",
        ".epoch-00009-sample-000000000-rank-00000.receipt",
        "epoch-00009-sample-000000000-rank-00000.part",
    ]
    for name in left:
        (tmp_path / name).write_bytes(b"left")
    # Of two descriptions the newer counts, though it was written before.
    assert folder.descriptions() == [damaged]
    folder.set_aside(damaged)
    assert folder.descriptions() == []
    folder.remove_left_overs()
    assert not any((tmp_path / name).exists() for name in left)
    assert part.exists()
    whole, other = save(folder, checkpoint(2))
    assert sorted(tmp_path.iterdir()) == sorted([whole, other])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_part_is_refused(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    path, part = save(folder, checkpoint(2))
    content = bytearray(part.read_bytes())
    if damage == "truncated":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[100] ^= 1
        part.write_bytes(content)
    else:
        part.unlink()
    found = folder.load(path)
    with pytest.raises(DhhpcError, match=rf"{part.name}: .*(damaged|missing)"):
        folder.check(found, found.parts[0])
    with pytest.raises(DhhpcError, match=rf"{part.name}: .*(damaged|missing)"):
        folder.state(found)


@pytest.mark.parametrize("damage", ["truncated", "another number", "something else", "earlier version"])
def test_a_damaged_description_is_refused(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    path, _ = save(folder, checkpoint(2, samples=7))
    error, match = DhhpcError, "no checkpoint description"
    if damage == "truncated":
        path.write_text("{")
        match = f"{path.name}: not valid JSON"
    elif damage == "another number":
        path.write_text(path.read_text().replace('"samples": 7', '"samples": 8'))
        match = f"{path.name}: the checkpoint is damaged"
    elif damage == "something else":
        path.write_text('{"sha256": 3}')
        match = f"{path.name}: the checkpoint is damaged"
    else:
        path.write_text(json.dumps({"epoch": 2, "arrays": "epoch-00002.npz", "sha256": "0"}))
        error, match = EarlierFormatError, "of an earlier version of dhhpc.*train anew"
    with pytest.raises(error, match=match):
        folder.load(path)


def test_a_failure_is_told_in_one_line_and_leaves_the_checkpoint_before(tmp_path):
    """A file in the place of the folder."""
    folder, heard = CheckpointFolder(tmp_path / "checkpoints"), []
    path, part = save(folder, checkpoint(1))
    away = tmp_path / "away"
    folder.folder.rename(away)
    folder.folder.write_text("in the way")
    writer = writer_into(folder, failed=heard.append)
    writer.begin(checkpoint(2), arrays(2), {})
    with pytest.raises(DhhpcError, match=r"epoch-00002-.*\.part: cannot be written \(") as caught:
        writer.finish()
    assert heard == [str(caught.value)]
    assert "\n" not in heard[0]
    folder.folder.unlink()
    away.rename(folder.folder)
    assert sorted(folder.folder.iterdir()) == sorted([path, part])
    writer.begin(checkpoint(3), arrays(3), {})
    writer.finish()
    assert folder.load(folder.descriptions()[-1]).epoch == 3


def test_without_checkpoints_there_is_none(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.descriptions() == []
    assert folder.best() is None
    folder.remove_left_overs()


def test_arrays_are_cut_evenly_and_between_their_numbers():
    """Rows of 12, 0, 16 and 6 bytes: a third of 34 lies in the first array, two thirds in the third one."""
    row = {
        "a": np.arange(3, dtype=np.float32),
        "b": np.zeros((0, 4)),
        "c": np.arange(2, dtype=np.float64),
        "d": np.arange(3, dtype=np.int16),
    }
    layout = Layout.of(row)
    assert layout.size == 34
    assert layout.cut(1) == [0, 34]
    assert layout.cut(3) == [0, 8, 20, 34]
    together = np.concatenate([array.reshape(-1).view(np.uint8) for array in row.values()])
    for count in (1, 3, 7):
        shards = []
        edges = layout.cut(count)
        for start, stop in itertools.pairwise(edges):
            shards.append(np.zeros(stop - start, np.uint8))
            layout.copy(row, start, stop, shards[-1])
        assert np.concatenate(shards).tobytes() == together.tobytes()
    views = Layout(layout.describe()).views(together)
    for name, array in row.items():
        assert views[name].dtype == array.dtype
        np.testing.assert_array_equal(views[name], array)
