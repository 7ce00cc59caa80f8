"""Processes of this machine, as /proc shows them (proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def start_time(process: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended.

    A process number alone may be handed to another program one day; its start time tells them apart.

    These are fields 22 and 3 of its stat file.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses: count from behind the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def processes_with(chosen: Callable[[dict[str, str]], bool]) -> Iterator[int]:
    """The user's other processes that were started with an environment for which `chosen` holds."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            text = (path / "environ").read_bytes().decode(errors="replace")
            environment = dict(pair.partition("=")[::2] for pair in text.split("\0") if pair)
            if int(path.name) != os.getpid() and chosen(environment):
                yield int(path.name)


def kill(process: int) -> None:
    """Kill a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float, poll: float = 0.05) -> bool:
    """Poll `condition` until it holds or `seconds` have passed; whether it held."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(poll)
    return True
