"""Processes of this machine, as /proc shows them (proc(5))."""

from __future__ import annotations

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
