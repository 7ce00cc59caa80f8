"""The commands of a scheduler, run for what they print."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from dhhpc.errors import DhhpcError


def ask_scheduler(
    command: Sequence[str], name: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of a scheduler's commands to its end, however that is.

    Args:
        name: what people call the scheduler.
        environment: its variables; this process's by default.

    Raises:
        DhhpcError: this machine has no such command.
    """
    try:
        return subprocess.run(
            command,
            env=dict(os.environ if environment is None else environment),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise DhhpcError(
            f"{command[0]}: not found on PATH: this machine has no {name}; log in to the cluster, or use "
            f"--site local to run here"
        ) from None


def refusal(program: str, finished: subprocess.CompletedProcess[str]) -> DhhpcError:
    """The error of a command that has failed: the last line it said, or its exit code."""
    said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
    return DhhpcError(f"{program}: {said[-1].removeprefix(f'{program}: ').removeprefix('error: ')}")
