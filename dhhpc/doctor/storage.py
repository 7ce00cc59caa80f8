"""The file system of a folder: room, files, locks and clock."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path

from dhhpc.findings import Finding, fail, ok, warn

LITTLE_SPACE, NO_SPACE = 5e9, 2e8  # bytes
FEW_FILES = 10_000
SKEW_SECONDS = 2.0
PROBE_BYTES = 32 * 2**20


def space(path: Path) -> Finding:
    """Free room, and how fast 32 MB are written to the disk."""
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    text = f"{free / 1e9:.1f} GB free at {path}"
    mend = (
        "runs and shards need room: choose another folder (--output), or delete; a quota may be lower still"
    )
    if free < NO_SPACE:
        return fail("disk space", text, mend)
    try:
        speed = PROBE_BYTES / 1e6 / seconds_to_write(path)
    except OSError as error:
        why = "the quota is used up" if error.errno == errno.EDQUOT else error.strerror
        return fail("disk space", f"{path} cannot be written: {why}", "choose another folder (--path)")
    text += f"; 32 MB written and synchronised at {speed:.0f} MB/s"
    return warn("disk space", text, mend) if free < LITTLE_SPACE else ok("disk space", text)


def seconds_to_write(path: Path) -> float:
    block = os.urandom(PROBE_BYTES)
    with tempfile.TemporaryFile(dir=path) as file:
        started = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - started


def inodes(path: Path) -> Finding:
    """How many more files the file system takes."""
    status = os.statvfs(path)
    if status.f_files == 0:
        return ok("files", f"the file system of {path} sets no number of files")
    text = f"{status.f_favail} more files fit at {path}"
    if status.f_favail < FEW_FILES:
        return warn("files", text, "delete small files; shards hold many images in one file")
    return ok("files", text)


def file_locks(path: Path) -> Finding:
    """Whether HDF5 can lock files here. dhhpc does without; other programs that read shards may not."""
    import h5py

    try:
        with tempfile.TemporaryDirectory(dir=path, prefix=".dhhpc-doctor-") as folder:
            file = Path(folder) / "probe.h5"
            with h5py.File(file, "w", locking=False) as written:
                written["x"] = [1]
            with h5py.File(file, "r", locking=True) as read:
                assert read["x"][0] == 1
    except OSError as error:
        if "lock" in str(error):
            text = f"the file system of {path} has no locks; dhhpc does without"
            mend = "for other programs that read shards: export HDF5_USE_FILE_LOCKING=FALSE"
            return warn("HDF5 locks", text, mend)
        return fail("HDF5 locks", f"{path}: {error}", "choose another folder (--path)")
    return ok("HDF5 locks", f"HDF5 {h5py.version.hdf5_version} can lock files at {path}")


def clock(path: Path) -> Finding:
    """Whether this machine and the file system agree on the time."""
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".dhhpc-doctor-") as file:
            before = time.time()
            os.utime(file.name)  # the file system's own time, which of a network file system is its server's
            changed, after = os.stat(file.name).st_mtime, time.time()
    except OSError as error:
        return warn("clock", f"{path}: {error.strerror}", "choose a folder that can be written (--path)")
    skew = min(changed - before, 0.0) + max(changed - after, 0.0)
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if abs(skew) > SKEW_SECONDS:
        text = f"the file system of {path} is {skew:+.0f} s from this machine's {now}"
        mend = "times in records will not agree between machines; tell the machine's support"
        return warn("clock", text, mend)
    return ok("clock", f"{now}, and the file system agrees")
