"""How training shows on a terminal (a bar) and in a log (plain lines)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]


@contextlib.contextmanager
def training_progress() -> Iterator[Listener]:
    """A listener for `dhhpc.training.train` and `train_series`."""
    if not sys.stderr.isatty():
        yield lambda event, values: print_event(event, values, print_line)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("batch {task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    from rich.console import Console

    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None)
        epochs = 1

        def listen(event: str, values: dict[str, Any]) -> None:
            nonlocal epochs
            if event == "start":
                epochs = values["epochs"]
                done = values["epoch"] * values["batches"] + values["batch"]
                bar.update(task, total=epochs * values["batches"], completed=done)
            elif event == "batch":
                done = values["epoch"] * values["batches"] + values["batch"]
                description = f"epoch {values['epoch'] + 1}/{epochs}, loss {values['loss']:.4f}"
                bar.update(task, completed=done, description=description)
            print_event(event, values, lambda line: bar.console.print(line, highlight=False, markup=False))

        yield listen


def print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_event(event: str, values: dict[str, Any], write: Callable[[str], None]) -> None:
    """The events that are worth a line."""
    if event == "start":
        begun = values["epoch"] or values["batch"]
        where = f"from epoch {values['epoch'] + 1}" if begun else "from the start"
        ranks = f"{plural(values['ranks'], 'rank')} x {plural(values['threads'], 'thread')}"
        write(f"training into {values['folder']} {where}: {values['epochs']} epochs on {ranks}")
    elif event == "staged":
        nodes = f"on {plural(values['nodes'], 'node')}"
        there = values["bytes"] - values["copied"]
        kept = f", {there / 1e6:.1f} MB were there" if there else ""
        write(
            f"staged shards in {values['folder']}: copied {values['copied'] / 1e6:.1f} MB {nodes} in "
            f"{values['seconds']:.1f} s{kept}"
        )
    elif event == "epoch":
        write(epoch_line(values))
    elif event == "member":
        write(f"{values['name']}, member {values['number'] + 1} of {values['members']}:")
    elif event == "failure":
        write(f"{values['name']} failed: {values['message']}")
    elif event == "warning":
        write(f"warning: {values['message']}")
    elif event == "stop":
        write("stopped by a signal; the checkpoint is written, go on with --resume")


def epoch_line(values: dict[str, Any]) -> str:
    """One epoch in one line: loss, validation, time and throughput."""
    parts = [f"epoch {values['epoch'] + 1}/{values['epochs']}: loss {values['loss']:.4f}"]
    validation = values.get("validation", {})
    for name in ("loss", "dice", "accuracy"):
        if validation.get(name) is not None:
            parts.append(f"validation {name} {validation[name]:.4f}")
    return ", ".join([*parts, f"{values['seconds']:.1f} s, {values['samples_per_second']:.1f} samples/s"])


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
