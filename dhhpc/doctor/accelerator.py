"""GPUs, and the libraries that speak to them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from dhhpc.findings import Finding, ok, warn

QUERY = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
# What people install under one of several names, one for each release of CUDA.
LIBRARIES = {
    "CuPy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "cuDNN": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    "NCCL": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
}


def accelerators() -> Iterator[Finding]:
    """The GPUs of this machine; with one, the libraries that are installed for it."""
    if shutil.which(QUERY[0]) is None:
        yield ok("GPU", "none (no nvidia-smi on PATH); dhhpc trains on the CPU")
        return
    try:
        asked = subprocess.run(QUERY, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        yield warn("GPU", "nvidia-smi does not answer", "ask the machine's support; jobs may hang")
        return
    found = [line.strip() for line in asked.stdout.splitlines() if line.strip()]
    if asked.returncode != 0 or not found:
        yield ok("GPU", "nvidia-smi finds none on this node; dhhpc trains on the CPU")
        return
    text = f"{len(found)} ({'; '.join(sorted(set(found)))}); this version of dhhpc trains on the CPU"
    yield warn("GPU", text, "do not pay for GPUs: choose a partition without")
    for name, packages in LIBRARIES.items():
        installed = [f"{package} {number}" for package in packages if (number := version_of(package))]
        yield ok(name, ", ".join(installed) or "not installed, and not needed")


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
