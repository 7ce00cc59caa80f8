"""Copies of shards on a node's disk: whole or not at all, and not pulled away from another job."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dhhpc.data.shards import ShardSet, read_index
from dhhpc.data.staged_copy import CopyStopped, NodeCopy, copy_shard
from dhhpc.errors import DhhpcError

USES = """
import sys, time
from pathlib import Path
from dhhpc.data.staged_copy import NodeCopy
NodeCopy(Path(sys.argv[1]), b"other shards", "here").use()
print("ready", flush=True)
time.sleep(60)
"""


def copy_of(shards: Path, place: Path) -> NodeCopy:
    return NodeCopy(place, (shards / "index.json").read_bytes(), "here")


def fill(copy: NodeCopy, shards: Path, *splits: str) -> list[str]:
    """Copy what is missing of these splits; returns the names of these files."""
    copy.use()
    with copy.adding(lambda: False):
        missing = copy.missing(read_index(shards).of(splits))
        for record in missing:
            copy_shard(shards, copy.folder, record, "here")
    return [record.file for record in missing]


def test_the_last_of_several_jobs_removes_the_copy(discs, tmp_path):
    one, two = copy_of(discs, tmp_path), copy_of(discs, tmp_path)
    assert fill(one, discs, "training") == ["training-00000.h5"]
    assert fill(two, discs, "training", "test") == ["test-00000.h5"]
    assert one.folder == two.folder
    assert (one.folder.stat().st_mode & 0o777) == 0o700
    for name in ("index.json", "training-00000.h5", "test-00000.h5"):
        assert (one.folder / name).read_bytes() == (discs / name).read_bytes()
    one.leave(keep=False)
    with pytest.raises(DhhpcError, match=r"validation-00000\.h5: the shard is missing"):
        ShardSet(two.folder)
    staged, whole = ShardSet(two.folder, splits=("training", "test")), ShardSet(discs)
    assert [staged.count(split) for split in whole.splits] == [21, 6, 5]
    assert staged.read("test", range(5))[0].tobytes() == whole.read("test", range(5))[0].tobytes()
    two.leave(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_is_to_be_kept_stays(discs, tmp_path):
    one, other = copy_of(discs, tmp_path), NodeCopy(tmp_path, b"other shards", "here")
    fill(one, discs, "test")
    one.leave(keep=True)
    again = copy_of(discs, tmp_path)
    assert fill(again, discs, "test") == []
    again.leave(keep=False)
    other.use()
    other.remove_abandoned()
    other.leave(keep=False)
    assert list(tmp_path.iterdir()) == [one.folder]


def test_what_a_killed_job_has_left_is_removed_by_the_next(discs, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", USES, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    copy = copy_of(discs, tmp_path)
    (shut := tmp_path / f"{copy.prefix}0").mkdir()
    copy.use()
    copy.remove_abandoned()
    left = NodeCopy(tmp_path, b"other shards", "here").folder
    assert sorted(tmp_path.iterdir()) == sorted([copy.folder, left])  # a live process uses the one
    assert not shut.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    copy.remove_abandoned()
    assert list(tmp_path.iterdir()) == [copy.folder]


def test_one_job_at_a_time_copies_and_half_files_of_killed_ones_go(discs, tmp_path):
    one, two = copy_of(discs, tmp_path), copy_of(discs, tmp_path)
    one.use()
    two.use()
    (one.folder / ".training-00000.h5.1.tmp").write_bytes(b"half")
    answers = iter([False, False, True])
    with one.adding(lambda: False):
        assert not list(one.folder.glob(".*.tmp"))
        with pytest.raises(CopyStopped), two.adding(lambda: next(answers)):
            pass
    assert list(answers) == []
    (record,) = read_index(discs).of(["test"])
    with pytest.raises(CopyStopped):
        copy_shard(discs, two.folder, record, "here", lambda: True)
    assert sorted(path.name for path in two.folder.iterdir()) == [".copying", "index.json"]
    assert fill(two, discs, "test") == ["test-00000.h5"]


def test_a_damaged_shard_is_named_and_not_kept(discs, tmp_path):
    shards, place = tmp_path / "shards", tmp_path / "disk"
    shutil.copytree(discs, shards)
    place.mkdir()
    (record,) = read_index(shards).of(["test"])
    with open(shards / record.file, "r+b") as file:
        file.seek(record.bytes // 2)
        file.write(bytes([file.read(1)[0] ^ 1]))
    with pytest.raises(DhhpcError) as caught:
        copy_shard(shards, place, record, "here")
    assert str(caught.value).startswith(f"{shards}/test-00000.h5: its SHA-256 is not the one in index.json")
    assert list(place.iterdir()) == []


def test_folders_that_take_no_copy(discs, tmp_path):
    with pytest.raises(DhhpcError, match=rf"--stage {tmp_path}/no: no such folder on here; give --stage a"):
        copy_of(discs, tmp_path / "no").use()
    copy = copy_of(discs, tmp_path)
    copy.folder.symlink_to("/etc")
    with pytest.raises(DhhpcError, match="cannot be written on here"):
        copy.use()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system to fill")
def test_a_small_disk_is_refused_and_a_full_one_leaves_no_half_file(discs, tmp_path):
    """24 kB of 4 kB blocks; the shards take some 10, 6 and 5 of them."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(tmp_path)], check=True)
    try:
        copy, records = copy_of(discs, tmp_path), read_index(discs).of(None)
        copy.use()
        blocks = sum(-(-size // 4096) for size in [*(record.bytes for record in records), len(copy.index)])
        with pytest.raises(DhhpcError) as caught:
            copy.check_space(records)
        needed = f"{blocks * 4096} bytes are needed for the shards on here and 24576 are free"
        assert str(caught.value).startswith(f"--stage {tmp_path}: {needed}; free some there")
        with pytest.raises(DhhpcError) as caught:
            copy_shard(discs, copy.folder, records[0], "here")
        path = copy.folder / "training-00000.h5"
        assert str(caught.value) == (
            f"{path}: cannot be written on here (No space left on device); free some space there, or leave "
            f"out --stage"
        )
        assert list(copy.folder.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(DhhpcError, match=r"cannot be written on here \(Read-only file system\)"):
            NodeCopy(tmp_path, b"other shards", "here").use()
        with pytest.raises(DhhpcError, match=r"cannot be removed on here .*; delete it by hand"):
            copy.leave(keep=False)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
