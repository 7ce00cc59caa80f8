"""How a study shows on a terminal (a bar for the point that trains) and in a log (plain lines)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dhhpc.scaling.studies.runner import Watcher

# Seconds between two lines in a log.
LINE_INTERVAL = 15.0


@contextlib.contextmanager
def study_progress(indent: str = "", unit: str = "epoch") -> Iterator[Watcher]:
    """A watcher for `dhhpc.scaling.studies.runner.run_study` that writes to stderr.

    Args:
        unit: of what `progress` counts.
    """
    from dhhpc.scaling.studies.runner import Watcher

    if not sys.stderr.isatty():
        yield Watcher(lambda line: print_line(indent + line), LogProgress(indent, unit))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(indent + "{task.description}"),
        BarColumn(),
        TextColumn(unit + " {task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def say(line: str) -> None:
            bar.console.print(f"{indent}{line}", highlight=False, markup=False, soft_wrap=True)

        def progress(done: int, total: int, title: str) -> None:
            if done == 0:
                bar.reset(task)
            bar.update(task, completed=done, total=total, description=title, visible=done < total)

        yield Watcher(say, progress)


def print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class LogProgress:
    """A line on the point that trains, at most every `LINE_INTERVAL` seconds."""

    def __init__(self, indent: str, unit: str) -> None:
        self.indent, self.unit = indent, unit
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, title: str) -> None:
        now = time.monotonic()
        if done and now - self.last >= LINE_INTERVAL:
            self.last = now
            print_line(f"{self.indent}{title}: {self.unit} {done} of {total}")
