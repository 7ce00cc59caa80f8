"""Compiling kernels with Numba, and where the compiled code is kept.

The cache folder is one per user, CPU and version of the kernels: Numba's own key covers only the file a
kernel stands in, not the files that it calls into, so the folder's name holds a hash of all sources.
"""

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered (so that they vectorise) and multiply-adds fused. NaN and infinity must get through:
# a diverged training has to be seen, so neither 'nnan' nor 'ninf'.
_FAST_MATH = {"reassoc", "contract", "nsz"}


def _cache_root() -> Path:
    given = os.environ.get("DHHPC_CACHE_DIR")
    if given:
        return Path(given) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dhhpc" / "kernels"


def _source_hash() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
    package = Path(__file__).parent
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> Path | None:
    """The folder of the compiled kernels of this CPU and version, made if missing.

    `$DHHPC_CACHE_DIR/kernels`, else `$XDG_CACHE_HOME/dhhpc/kernels` or `~/.cache/dhhpc/kernels`, and in it
    `<cpu>-<hash>`. None, said once on stderr, when it cannot be written: the kernels then compile anew in
    every process.
    """
    try:
        folder = _cache_root() / f"{llvmlite.binding.get_host_cpu_name()}-{_source_hash()}"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder is known
        print(
            f"dhhpc: compiled kernels are not kept ({error}); set DHHPC_CACHE_DIR to a writable folder",
            file=sys.stderr,
        )
        return None
    return folder


def compile_kernel(function: Function) -> Function:
    """Decorate a kernel: compiled by Numba on its first call, without the interpreter's lock, and cached."""
    folder = cache_folder()
    settings: Any = numba.config
    configured = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder) if folder else configured
    try:
        compiled: Any = numba.njit(
            nogil=True, cache=folder is not None, fastmath=_FAST_MATH, error_model="numpy"
        )(function)
    finally:
        settings.CACHE_DIR = configured
    return compiled
