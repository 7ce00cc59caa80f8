"""Training in processes of its own: starting, waiting, and what a run has left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests import synthetic

# Batch normalisation, Adam and augmentations: everything that a resumed run must take up again.
FULL = {
    "network": {"name": "unet", "channels": [8, 16]},
    "optimizer": {"name": "adam"},
    "augmentations": [{"name": "flip"}],
    "schedule": {"name": "cosine"},
}


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dhhpc", *map(str, arguments)],
        env=synthetic.clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_epochs(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the events of the run tell of `count` epochs."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        events = run / "events.jsonl"
        if events.exists() and events.read_text().count('"event": "epoch"') >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"{run}: no {count} epochs in time")


def wait_for_the_end_of(run: Path) -> None:
    """Until no process has the run folder in its command line."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        busy = False
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                busy |= str(run).encode() in process.read_bytes()
        if not busy:
            return
        time.sleep(0.05)
    raise AssertionError(f"{run}: its processes do not end")


def final_state(run: Path) -> dict[str, bytes]:
    """The bits of the last checkpoint: what all ranks have agreed upon, and what each has of its own."""
    newest = max((run / "checkpoints").glob("*.json"))
    parts = {path.name: path.read_bytes() for path in newest.parent.glob(f"{newest.stem}-rank-*.part")}
    assert parts
    return parts


def selected_model(run: Path) -> dict[str, bytes]:
    with np.load(run / "model.npz") as archive:
        return {name: archive[name].tobytes() for name in archive.files}
