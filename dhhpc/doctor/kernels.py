"""The cache of compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path

from dhhpc.findings import Finding, fail, ok

BUILD = "run `dhhpc kernels build` once, on a node of the kind that jobs get"


def kernel_cache() -> Finding:
    """Where compiled kernels are kept for this processor, and whether there are some."""
    from dhhpc_kernels.cache import cache_folder

    folder = cache_folder()
    count = len(list(folder.rglob("*.nbc")))
    text = f"{count} compiled functions for this processor in {folder}"
    if not can_be_written(folder):
        if count:
            return ok("kernel cache", f"{text} (read-only)")
        mend = "set DHHPC_CACHE_DIR to a folder that you can write; else every process compiles for itself"
        return fail("kernel cache", f"{folder} cannot be made", mend)
    return Finding("ok" if count else "warn", "kernel cache", text, "" if count else BUILD)


def can_be_written(folder: Path) -> bool:
    """Whether a folder, or the nearest one above that exists, takes new files."""
    for place in (folder, *folder.parents):
        if place.exists():
            return os.access(place, os.W_OK | os.X_OK)
    return False
