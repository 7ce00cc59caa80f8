"""One process at a time that writes into a folder, over all machines that share it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.files import write_error

LOCK_NAME = ".lock"
# A process that was killed may take some seconds to be gone. The lock of a machine that crashed ends with its
# lease, 90 s by default in Linux' NFS server.
WAIT_HERE, WAIT_ELSEWHERE = 10.0, 120.0
POLL_SECONDS = 0.2
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def sole_use(
    folder: Path, say: Callable[[str], None], here: float | None = None, elsewhere: float | None = None
) -> Iterator[None]:
    """Keep others out of `folder`, which is made if it is not there, and goes again if it stays empty.

    The lock is flock(2) on a file in the folder, so it ends with the process that holds it, however that
    ends. Where the file system has no locks, nobody is kept out, and `say` hears so.

    Args:
        say: hears a line when there is somebody to wait for.
        here, elsewhere: seconds to wait for a process on this machine, and on another one; by default
            `WAIT_HERE` and `WAIT_ELSEWHERE`.

    Raises:
        DhhpcError: another process still has the folder; names it. Or the folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        descriptor = locked(
            path, say, WAIT_HERE if here is None else here, WAIT_ELSEWHERE if elsewhere is None else elsewhere
        )
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody has removed the folder
            path.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def locked(path: Path, say: Callable[[str], None], here: float, elsewhere: float) -> int:
    """A descriptor of `path` that holds its lock."""
    began, told = time.monotonic(), False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # its last user has just removed the folder
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 1024, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            wait = here if holder.startswith(f"{socket.gethostname()}:") else elsewhere
            if time.monotonic() - began > wait:
                raise DhhpcError(
                    f"{path.parent}: is in use by {holder} (host:process); wait for that one to end, or "
                    f"choose another output folder"
                ) from None
            if not told:
                say(f"{path.parent} is in use by {holder}; waiting up to {wait:g} s for it to end")
                told = True
            time.sleep(POLL_SECONDS)
            continue
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(descriptor)
                raise
            say(f"{path.parent}: its file system has no locks; see that nothing else writes there")
            return descriptor
        if not is_still(path, descriptor):
            os.close(descriptor)  # its last holder has just removed it
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()}:{os.getpid()}".encode(), 0)
        return descriptor


def is_still(path: Path, descriptor: int) -> bool:
    """Whether the file at `path` is the open one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
