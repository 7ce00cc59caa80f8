"""Where compiled kernels are kept, and how many processes share that.

A folder a processor and set of versions, in it one a module: Numba's own key covers only the file that a
kernel stands in, not those that it calls into, so the folder's name holds a hash of them all. Numba's own
cache folders must be writable, and its processes know nothing of each other; here one process compiles a
kernel while the others wait for it, and a folder that is complete may be read-only.
"""

import fcntl
import functools
import hashlib
import os
import pickle
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from dhhpc_kernels.target import target

PACKAGE = Path(__file__).parent
# A process that waits for another longer than this compiles itself, in seconds.
LONGEST_WAIT = 300.0
# Kernels that this process compiled and could not keep.
unkept: set[str] = set()
# `from a.b import c, d` or `import a.b`, the names in parentheses over several lines too.
_IMPORT = re.compile(r"^[ \t]*(?:from|import) ([\w.]+)(?: import (\([^)]*\)|[^\n]*))?", re.MULTILINE)
_NAME = re.compile(r"\w+")
_DAMAGE = (OSError, EOFError, pickle.UnpicklingError)


@functools.cache
def tell_once(text: str) -> None:
    """Print a line on stderr, the first time only."""
    print(f"dhhpc: {text}", file=sys.stderr)


@functools.cache
def cache_folder() -> Path:
    """The folder of the compiled kernels for this processor and these versions; it need not exist.

    `$DHHPC_CACHE_DIR/kernels`, else `$XDG_CACHE_HOME/dhhpc/kernels` or `~/.cache/dhhpc/kernels`, and in it
    `<cpu>-<hash>`.
    """
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version_info[:2])
    key = repr((target(), versions))
    name = f"{target()[1]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    given, base = os.environ.get("DHHPC_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "kernels" / name
    return (Path(base) if base else Path("~/.cache").expanduser()) / "dhhpc" / "kernels" / name


@functools.cache
def imports(source: Path) -> frozenset[Path]:
    """The modules of this package that a source file imports, by its import statements' text: to parse all
    files takes a third of a second at every start."""
    names = set()
    for module, imported in _IMPORT.findall(source.read_text(encoding="utf-8")):
        names |= {module} | {f"{module}.{name}" for name in _NAME.findall(imported)}
    files = {PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return frozenset(file for file in files if PACKAGE in file.parents and file.is_file())


@functools.cache
def module_hash(source: Path) -> str:
    """A hash of a source file and of the modules of this package that it imports, and they import."""
    found, new = set(), {source}
    while new:
        found |= new
        new = {file for known in new for file in imports(known)} - found
    digest = hashlib.sha256()
    for file in sorted(found):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _Locator(_CacheLocator):
    """Tells Numba which folder a function's compiled code is in."""

    def __init__(self, function: Any, file: str) -> None:
        source = Path(file)
        self.line = function.__code__.co_firstlineno
        self.stamp = module_hash(source)
        self.folder = cache_folder() / f"{source.stem}-{self.stamp}"

    def get_cache_path(self) -> str:
        return str(self.folder)

    def get_source_stamp(self) -> str:
        return self.stamp

    def get_disambiguator(self) -> str:
        return str(self.line)

    @classmethod
    def from_function(cls, function: Any, file: str) -> "_Locator":
        return cls(function, file)


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class KernelCache(FunctionCache):
    """Numba's cache of one function, for many processes and for read-only folders.

    Numba calls `load_overload`; if that finds nothing it compiles and calls `save_overload`. In between the
    process holds the function's lock, which the kernel of the operating system frees if the process dies.
    """

    _impl_class = _Implementation

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self.folder = Path(self.cache_path)
        self.locks: dict[Any, IO[bytes]] = {}

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled function, once another process that compiles it is done; None if there is none."""
        try:
            found = super().load_overload(signature, context)
        except _DAMAGE:
            found = None
        if found is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.locks[signature] = self._lock()
                # A new file makes network file systems forget that a name was missing a moment ago.
                tempfile.TemporaryFile(dir=self.folder).close()
                try:
                    found = super().load_overload(signature, context)
                except _DAMAGE:  # cut short by a full disk or a crash
                    self.flush()
            except OSError as error:
                self._not_kept(error)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep the compiled function, if the folder can be written."""
        if signature in self.locks:
            try:
                super().save_overload(signature, compiled)
            except OSError as error:
                self._not_kept(error)

    def release(self, signature: Any) -> None:
        """Let others compile or load; to be called after every load, whatever came of it."""
        lock = self.locks.pop(signature, None)
        if lock is not None:
            lock.close()

    def _lock(self) -> IO[bytes]:
        """An open file that holds the function's lock.

        POSIX locks are those that network file systems coordinate between machines.
        """
        file = open(self.folder / f"{self._impl.filename_base}.lock", "ab")  # noqa: SIM115
        end = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < end:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):  # held by another process
                time.sleep(0.02)
            except OSError as error:
                tell_once(
                    f"{cache_folder()}: the file system has no locks ({error.strerror}), so processes that "
                    "start together compile the same kernels; run `dhhpc kernels build` before a job"
                )
                break
        return file

    def _not_kept(self, error: OSError) -> None:
        unkept.add(self._impl.filename_base)
        tell_once(
            f"{cache_folder()}: compiled kernels are not kept ({error.strerror}); "
            "set DHHPC_CACHE_DIR to a writable folder or to one that `dhhpc kernels build` has filled"
        )
