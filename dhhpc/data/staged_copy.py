"""A copy of shards on a disk of this node's own, which its ranks share, and so do other jobs on the node."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dhhpc.data.shard_index import INDEX_NAME, ShardRecord
from dhhpc.data.shards import check_shard
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing, sha256_of

# In the folder of a copy: who holds its lock copies; and what says that nobody removes the copy.
COPYING, KEPT = ".copying", ".kept"
PREFIX = "dhhpc-shards"
# Bytes that are copied at once.
BLOCK = 2**22
MEND = "give --stage a folder on the node's own disk that you may write to, or leave it out"


@dataclass(frozen=True)
class Staged:
    """Where on this node a copy lies, and the splits whose shards are there."""

    folder: Path
    splits: tuple[str, ...]


class CopyStopped(Exception):  # noqa: N818 - no failure
    """Who copies was asked to stop."""


class NodeCopy:
    """The copy on this node, in the hands of one process of each job.

    Its folder is named after the SHA-256 of index.json, which holds that of every shard: jobs that read the
    same shards on the same node find each other's files there. Who uses the copy has a shared lock on the
    folder (flock(2)), which ends with its process however that ends; who can lock it alone is the last one
    and removes it. A copy that a killed job has left is used by the next job on these shards, and removed by
    the next on others. Files are added by one job at a time, each whole or not at all.

    Args:
        place: the folder below which the copy is made, on this node's disk.
        index: the bytes of index.json.
        host: this node's name, lest nodes meet should the disk be shared after all.
    """

    def __init__(self, place: Path, index: bytes, host: str) -> None:
        self.place, self.index, self.host = place, index, host
        self.prefix = f"{PREFIX}-{os.geteuid()}-{host}-"
        self.folder = place / f"{self.prefix}{hashlib.sha256(index).hexdigest()[:16]}"
        self._used: int | None = None

    def use(self) -> None:
        """Make the folder if there is none, and keep others from removing it.

        Raises:
            DhhpcError: there is no `place`, it cannot be written or locked, or the folder is somebody else's.
        """
        if not self.place.is_dir():
            raise DhhpcError(f"--stage {self.place}: no such folder on {self.host}; {MEND}")
        try:
            while self._used is None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.folder, 0o700)  # images of patients
                self._used = locked(self.folder, fcntl.LOCK_SH)
        except OSError as error:
            raise self.unfit(error) from error
        if os.fstat(self._used).st_uid != os.geteuid():
            raise DhhpcError(f"{self.folder}: belongs to another user on {self.host}; {MEND}")

    def unfit(self, error: OSError) -> DhhpcError:
        return DhhpcError(
            f"--stage {self.place}: cannot be written on {self.host} ({error.strerror or error}); {MEND}"
        )

    def remove_abandoned(self) -> None:
        """Remove copies of other shards that no process uses: those of jobs that were killed."""
        for folder in self.place.glob(f"{self.prefix}*"):
            if folder != self.folder:
                with contextlib.suppress(OSError):  # should they be in the way, the free space tells
                    remove_unused(folder)

    def missing(self, records: Sequence[ShardRecord]) -> list[ShardRecord]:
        """Those of which there is no whole file yet."""
        return [record for record in records if size_of(self.folder / record.file) != record.bytes]

    def check_space(self, records: Sequence[ShardRecord]) -> None:
        """Refuse a disk without room for what is missing.

        Raises:
            DhhpcError: tells the bytes that are needed and free, and the node.
        """
        # In this order: what another job copies meanwhile may count twice as room, and never as lack of it.
        status = os.statvfs(self.folder)
        under_way = sum(space_of(path) for path in self.folder.glob(".*.tmp"))
        sizes = [record.bytes for record in self.missing(records)]
        if size_of(self.folder / INDEX_NAME) != len(self.index):
            sizes.append(len(self.index))
        needed = sum(-(-size // status.f_frsize) * status.f_frsize for size in sizes)
        free = status.f_bavail * status.f_frsize
        if needed > free + under_way:
            raise DhhpcError(
                f"--stage {self.place}: {needed} bytes are needed for the shards on {self.host} and {free} "
                f"are free; free some there, or read them where they lie, without --stage (of dhhpc submit: "
                f"--no-stage)"
            )

    @contextlib.contextmanager
    def adding(self, stop: Callable[[], bool]) -> Iterator[None]:
        """While inside no other job adds files; index.json is there.

        Raises:
            CopyStopped: `stop` said so while another job was copying.
            DhhpcError: the disk is full.
        """
        try:
            descriptor = os.open(self.folder / COPYING, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise self.unfit(error) from error
        try:
            while not try_lock(descriptor):
                if stop():
                    raise CopyStopped
                time.sleep(0.05)
            for left_over in self.folder.glob(".*.tmp"):  # of a killed job
                left_over.unlink(missing_ok=True)
            if size_of(self.folder / INDEX_NAME) != len(self.index):
                with replacing(self.folder / INDEX_NAME) as temporary:
                    temporary.write_bytes(self.index)
            yield
        finally:
            os.close(descriptor)

    def leave(self, keep: bool) -> None:
        """This job no longer uses the copy, which is removed unless another does.

        Args:
            keep: nobody is to remove it from now on.

        Raises:
            DhhpcError: it cannot be removed.
        """
        if self._used is None:
            return
        try:
            if keep:
                (self.folder / KEPT).touch()
            os.close(self._used)
            self._used = None
            remove_unused(self.folder)
        except OSError as error:
            raise DhhpcError(
                f"{self.folder}: cannot be removed on {self.host} ({error.strerror or error}); delete it by "
                f"hand"
            ) from error


def copy_shard(
    source: Path, target: Path, record: ShardRecord, host: str, stop: Callable[[], bool] = lambda: False
) -> None:
    """Copy the shard of `record` from the folder `source` into `target`, whole or not at all, and compare it
    with its SHA-256.

    Raises:
        DhhpcError: it cannot be read or written, the disk is full, or the content is another.
        CopyStopped: `stop`, asked after each block, said so.
    """
    path = target / record.file
    try:
        reader = open(source / record.file, "rb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise unreadable(source / record.file, error) from error
    with reader, replacing(path) as temporary:
        try:
            with open(temporary, "wb") as writer:
                while block := read_block(reader, source / record.file):
                    if stop():
                        raise CopyStopped
                    writer.write(block)
        except OSError as error:
            raise unwritable(path, host, error) from error
        if sha256_of(temporary) != record.sha256:
            check_shard(source, record, verify=True)
            raise DhhpcError(
                f"{path}: differs on {host} from {source / record.file}, of which it is a copy; have that "
                f"disk checked, or leave out --stage"
            )


def read_block(reader: BinaryIO, path: Path) -> bytes:
    try:
        return reader.read(BLOCK)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DhhpcError:
    return DhhpcError(f"{path}: cannot be read ({error.strerror or error}); mend that, then start again")


def unwritable(path: Path, host: str, error: OSError) -> DhhpcError:
    return DhhpcError(
        f"{path}: cannot be written on {host} ({error.strerror or error}); free some space there, or leave "
        f"out --stage"
    )


def size_of(path: Path) -> int | None:
    """In bytes; None for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def space_of(path: Path) -> int:
    """Bytes that a file takes on its disk; 0 for one that is not there."""
    try:
        return path.stat().st_blocks * 512  # of this size whatever the disk's (stat(2))
    except FileNotFoundError:
        return 0


def locked(folder: Path, kind: int) -> int | None:
    """A descriptor of `folder` that holds a lock of that kind; None if it was removed meanwhile.

    Raises:
        OSError: it is no folder, or takes no locks; BlockingIOError with LOCK_NB where others hold it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind)
        # Who waited for a lock while the folder was removed has one of a folder without a name.
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def try_lock(descriptor: int) -> bool:
    """Lock a file alone, if nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_unused(folder: Path) -> None:
    """Remove a copy, unless a process uses it or it is to be kept."""
    try:
        descriptor = locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if descriptor is None:
        return
    try:
        if not (folder / KEPT).exists():
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)
