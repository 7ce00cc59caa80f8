"""How long work shows itself: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

# Seconds between two lines in a log; the last one of a task always comes.
LINE_INTERVAL = 1.0


@contextlib.contextmanager
def progress_shown(title: str, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, line) that shows the progress of a task on stderr.

    `line` says what happened last. One that starts with "skipped" is a notice and always printed.
    """
    started = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)

            def on_terminal(done: int, total: int, line: str) -> None:
                bar.update(task, completed=done, total=total)
                if line.startswith("skipped"):
                    bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

            yield on_terminal
        return
    last = -LINE_INTERVAL

    def in_log(done: int, total: int, line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if line.startswith("skipped"):
            print(line, file=sys.stderr, flush=True)
        elif now - last >= LINE_INTERVAL or done == total:
            last = now
            print(f"{title}: {done} of {total} {unit} ({now - started:.0f} s)", file=sys.stderr, flush=True)

    yield in_log
