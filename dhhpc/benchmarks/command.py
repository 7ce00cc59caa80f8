"""`dhhpc` as a process of its own, as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import dhhpc

BUILD = Path(dhhpc.__file__).resolve().parents[1]
"""The folder with the package of this build."""


def start(
    *words: str | int | Path, build: Path = BUILD, output: int | None = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """`dhhpc` of a build with these words, whose paths are absolute; its errors can be read."""
    path = os.pathsep.join(filter(None, [str(build), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "dhhpc", *map(str, words)],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        cwd=build,
    )


def call(
    *words: str | int | Path, build: Path = BUILD, shown: bool = False, codes: Collection[int] = (0,)
) -> subprocess.CompletedProcess[str]:
    """The same until it has ended; ends this process with its errors if it does with none of these codes."""
    process = start(*words, build=build, output=None if shown else subprocess.PIPE)
    output, errors = process.communicate()
    if process.returncode not in codes:
        sys.exit(errors or process.returncode)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
