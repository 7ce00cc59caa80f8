"""What a user's disk and cluster do to preprocessing: a full disk, a kill, a failure on one rank."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest

from dhhpc import locks
from dhhpc.data import ShardSet, preprocess, read_preprocess
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.mpi.launch import environment_for, mpiexec

COMMAND = [sys.executable, "-m", "dhhpc", "preprocess"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.h5")}


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of `size` bytes at `folder`, if this process may mount one; else None."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or mount is None or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def run_limited(document, limit):
    """Preprocess in a process that may write no file larger than `limit` bytes."""
    return subprocess.run(
        [*COMMAND, str(document)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def one_line(result):
    """The only line of a failed run that is no progress."""
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("preprocess: ")]
    return line


def test_a_folder_takes_one_preprocessing_at_a_time(volumes, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_HERE", 0.3)
    document = read_preprocess(volumes() / "preprocess.yml")
    output = document.folder / document.output
    said: list[str] = []
    with locks.sole_use(output, said.append):
        with pytest.raises(DhhpcError, match=rf"{output}: is in use by \S+:{os.getpid()} \(host:process\)"):
            preprocess(document, World(), say=said.append)
        assert [line.endswith("waiting up to 0.3 s for it to end") for line in said] == [True]
        assert contents(output) == {}
    assert preprocess(document, World()).written == 3
    assert not (output / locks.LOCK_NAME).exists()


def test_a_full_disk_is_one_line_and_a_rerun_goes_on(volumes, tmp_path):
    """Each shard takes some 130 kB (random floats do not compress): the disk holds a few of the eight."""
    root = volumes(8, size=64, preprocess={"images_per_shard": 1, "pipeline": []})
    document = root / "preprocess.yml"
    preprocess(read_preprocess(document), World())
    undisturbed = contents(root / "shards")
    shutil.rmtree(root / "shards")
    with small_disk(tmp_path / "disk", 400_000) as disk:
        if disk is None:
            pytest.skip("mounting a small disk needs root; the limit on file sizes is tested instead")
        document.write_text(document.read_text().replace("output: shards", f"output: {disk}/shards"))
        result = subprocess.run([*COMMAND, str(document)], capture_output=True, text=True)
        line = one_line(result)
        assert line.startswith(f"dhhpc: {disk}/shards/training-0000")
        assert "No space left on device" in line
        assert "free some space or choose another output folder" in line
        left = contents(disk / "shards")
        assert 1 <= len(left) < 8
        assert sorted(path.name for path in (disk / "shards").iterdir()) == sorted(left)
        assert left == {name: undisturbed[name] for name in left}
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        summary = preprocess(read_preprocess(document), World())
        assert (summary.reused, summary.written) == (len(left), 8 - len(left))
        assert contents(disk / "shards") == undisturbed
        assert ShardSet(disk / "shards", verify=True).count("training") == 24


@pytest.mark.parametrize("limit", [3_000, 70_000])
def test_a_limit_on_file_sizes_leaves_nothing_half_written(volumes, limit):
    """As a quota does: the write fails at the first shard, in its head or in its samples."""
    root = volumes(2, size=64, preprocess={"pipeline": [], "secret": "key"})
    result = run_limited(root / "preprocess.yml", limit)
    line = one_line(result)
    assert line.startswith(
        f"dhhpc: {root / 'shards' / 'training-00000.h5'}: cannot be written (File too large)"
    )
    assert not (root / "shards").exists()


def test_a_kill_in_the_middle_then_a_rerun_equals_an_undisturbed_run(volumes):
    steps = [{"name": "resample", "spacing": [1.0, 0.3, 0.3]}, {"name": "rescale"}]
    root = volumes(18, depth=8, size=64, preprocess={"images_per_shard": 1, "pipeline": steps})
    document = root / "preprocess.yml"
    preprocess(read_preprocess(document), World())
    undisturbed, index = contents(root / "shards"), (root / "shards" / "index.json").read_text()
    shutil.rmtree(root / "shards")
    process = subprocess.Popen([*COMMAND, str(document)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(root.glob("shards/*.h5"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    left = contents(root / "shards")
    assert 3 <= len(left) < 18
    assert not (root / "shards" / "index.json").exists()
    assert left == {name: undisturbed[name] for name in left}
    summary = preprocess(read_preprocess(document), World())
    assert summary.reused == len(left)
    assert contents(root / "shards") == undisturbed
    assert sorted(path.name for path in (root / "shards").iterdir()) == sorted([*undisturbed, "index.json"])

    def shards_of(text):
        return [line for line in text.splitlines() if "seconds" not in line]

    assert shards_of((root / "shards" / "index.json").read_text()) == shards_of(index)


@pytest.mark.parametrize("damaged", [1, 4])
def test_a_failure_on_one_rank_ends_all_with_one_line(volumes, damaged):
    """Image 1 belongs to rank 1 and image 4 to rank 0, one image a shard."""
    root = volumes(6, preprocess={"images_per_shard": 1})
    (root / f"scan{damaged}.nii.gz").write_bytes(b"\x1f\x8bnot a scan")
    result = subprocess.run(
        [*mpiexec(2), *COMMAND, str(root / "preprocess.yml")],
        env=environment_for(2, os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    line = one_line(result)
    assert line.startswith(f"dhhpc: {root / f'scan{damaged}.nii.gz'}: ")
    assert not [path for path in (root / "shards").iterdir() if path.suffix != ".h5"]


def test_ranks_option_gives_the_shards_of_one_rank(volumes):
    root = volumes(7)
    preprocess(read_preprocess(root / "preprocess.yml"), World())
    expected = contents(root / "shards")
    shutil.rmtree(root / "shards")
    result = subprocess.run(
        [*COMMAND, str(root / "preprocess.yml"), "--ranks", "2"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "20 training, 8 test samples" in result.stdout
    assert contents(root / "shards") == expected
    array = nibabel.Nifti1Image(np.zeros((16, 16, 3), np.float32), np.eye(4))
    nibabel.save(array, root / "mask6.nii.gz")
    result = subprocess.run(
        [*COMMAND, str(root / "preprocess.yml"), "--ranks", "2"], capture_output=True, text=True, timeout=60
    )
    assert "mask6.nii.gz" in one_line(result)
