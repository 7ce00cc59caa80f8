"""The key of a dataset's pseudonyms: made once, kept beside the identified data, never among the shards."""

from __future__ import annotations

import os
from pathlib import Path

from dhhpc import ecvl
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing

SECRET_NAME = "pseudonyms.key"


def dataset_secret(path: Path) -> bytes:
    """The secret in the file `path` (hexadecimal); a missing one is made, readable by its owner alone.

    Raises:
        DhhpcError: the file holds no secret, or cannot be read or made.
    """
    try:
        if not path.exists():
            with replacing(path) as temporary:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
                temporary.write_text(ecvl.new_secret().hex() + "\n", encoding="ascii")
    except DhhpcError as error:
        raise DhhpcError(f"{error}, or name another file in `secret`") from None
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise DhhpcError(f"{path}: the key of pseudonyms cannot be read ({error.strerror})") from None
    except ValueError:
        secret = b""
    if len(secret) < 16:
        raise DhhpcError(f"{path}: holds no key of pseudonyms; delete it to have a new one made") from None
    return secret
