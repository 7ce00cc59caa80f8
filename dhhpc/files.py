"""Writing files so that a killed job or a full disk never leaves half of one under its final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dhhpc.errors import DhhpcError

MENDS = {
    errno.ENOSPC: "free some space or choose another output folder",
    errno.EDQUOT: "the quota is used up: free some space or choose another output folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another output folder",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file: choose another output folder",
}


def write_error(path: Path | str, error: OSError) -> DhhpcError:
    """The one-line error for an operating system failure while writing `path`."""
    mend = MENDS.get(error.errno or 0, "check the output folder")
    return DhhpcError(f"{path}: cannot be written ({error.strerror or error}); {mend}")


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    The rename is atomic within one file system (POSIX): a reader sees the old file or the whole new one.
    On any failure the temporary file is removed and `path` stays as it was.

    Raises:
        DhhpcError: the file cannot be written (disk full, no permission, ...); names the path and the mend.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path | str) -> None:
    """Have the names of new and renamed files in `folder` outlast a crash of the machine, as `replacing` has
    their content: `fsync` of a file says nothing of its name (POSIX leaves that to the folder's).

    Raises:
        DhhpcError: the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such call, and need none
            raise write_error(folder, error) from error


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`.

    Raises:
        DhhpcError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DhhpcError(f"{path}: no such file; check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DhhpcError(f"{path}: not valid JSON ({error}); write the file anew") from None


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
