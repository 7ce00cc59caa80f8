"""Checkpoints: the whole state of a run, written whole or not at all, checked on reading."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, replacing, sha256_of, write_json

Array = np.ndarray[Any, Any]
NAME = re.compile(r"epoch-(\d{5})-sample-(\d{9})\.json")


@dataclass
class Checkpoint:
    """A run between two batches.

    Attributes:
        epoch, samples: the position: an epoch, from 0, and how many of its samples all ranks together have
            taken.
        ranks: of the world that wrote it.
        state: the model's state (`Model.state()`).
        history: a record of every finished epoch.
        sums: sample-weighted sums of the unfinished epoch's loss and metrics, over all ranks.
        seconds: wall time of the run so far.
        score: the monitored metric of the last epoch, larger is better; None unless at an epoch's end.
        parts: file name and SHA-256 of what each rank has beside `state`, in rank order; empty where ranks
            hold nothing of their own.
    """

    epoch: int
    samples: int
    ranks: int
    state: dict[str, Array]
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    score: float | None = None
    parts: list[dict[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"epoch-{self.epoch:05d}-sample-{self.samples:09d}"


class CheckpointFolder:
    """The checkpoints of a run: NAME.npz holds the arrays, NAME.json all else with the SHA-256 of the arrays.

    Where ranks hold arrays of their own, these are in NAME-rank-00000.npz and so on. The JSON file is written
    last: without it a checkpoint does not exist.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the newest are kept, beside the best.
        written: called after every piece that is written, of 16 MB at most.
    """

    def __init__(self, folder: Path, keep: int = 2, written: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self.written = folder, keep, written

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove those that are neither among the newest nor the best.

        Raises:
            DhhpcError: it cannot be written (full disk, ...); the ones before are untouched.
        """
        path = self.folder / f"{checkpoint.name}.npz"
        written = self._write(path, checkpoint.state)
        described = {name: value for name, value in vars(checkpoint).items() if name != "state"}
        write_json(path.with_suffix(".json"), described | written)
        self._remove_old()
        return path

    def save_own(self, checkpoint: Checkpoint, rank: int, state: dict[str, Array]) -> dict[str, str]:
        """Write the arrays of one rank, before `save`; returns what `Checkpoint.parts` holds of them.

        Raises:
            DhhpcError: they cannot be written.
        """
        return self._write(self.folder / f"{checkpoint.name}-rank-{rank:05d}.npz", state)

    def load_own(self, checkpoint: Checkpoint, rank: int) -> dict[str, Array]:
        """The arrays that a rank had of its own.

        Raises:
            DhhpcError: they are missing or damaged.
        """
        return self._arrays(**checkpoint.parts[rank])

    def descriptions(self) -> list[Path]:
        """The JSON files of all checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))

    def best(self) -> Path | None:
        """The description of the checkpoint with the highest score, the earliest of equals, or None."""
        scored = []
        for path in self.descriptions():
            try:
                score = read_json(path).get("score")
            except DhhpcError:
                continue
            if score is not None:
                scored.append((float(score), path))
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def load(self, path: Path) -> Checkpoint:
        """The checkpoint described by `path`.

        Raises:
            DhhpcError: its description or its arrays are missing or damaged.
        """
        described = read_json(path)
        try:
            state = self._arrays(described.pop("arrays"), described.pop("sha256"))
            return Checkpoint(**described, state=state)
        except (KeyError, TypeError, AttributeError) as error:
            raise DhhpcError(f"{path}: no checkpoint description ({error})") from None

    def _write(self, path: Path, state: dict[str, Array]) -> dict[str, str]:
        """Write arrays; returns what `_arrays` needs to find and check them."""
        with replacing(path) as temporary, io.BufferedWriter(Telling(temporary, self.written)) as file:
            np.savez(file, allow_pickle=False, **state)
        return {"arrays": path.name, "sha256": sha256_of(path)}

    def _arrays(self, arrays: str, sha256: str) -> dict[str, Array]:
        path = self.folder / arrays
        if not path.is_file():
            raise DhhpcError(f"{path}: the checkpoint's arrays are missing")
        if sha256_of(path) != sha256:
            raise DhhpcError(f"{path}: the checkpoint is damaged (its SHA-256 has changed)")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}

    def _remove_old(self) -> None:
        best = self.best()
        for path in self.descriptions()[: -self.keep]:
            if path != best:
                # The description goes first, so that no description is ever without its arrays.
                path.unlink(missing_ok=True)
        for left_over in self.folder.glob(".epoch-*.tmp"):  # of a run that was killed while it wrote
            left_over.unlink(missing_ok=True)
        described = {path.stem for path in self.descriptions()}
        for arrays in self.folder.glob("epoch-*.npz"):
            if arrays.stem.partition("-rank-")[0] not in described:
                arrays.unlink(missing_ok=True)


class Telling(io.FileIO):
    """A file to be written that tells of every piece."""

    def __init__(self, path: Path, written: Callable[[], None]) -> None:
        super().__init__(path, "wb")
        self.written = written

    def write(self, data: Any) -> int:
        count = super().write(data)
        self.written()
        return count


def score_of(validation: dict[str, Any] | None, monitor: str | None, task: str) -> float | None:
    """The monitored metric of an epoch, larger is better: Dice or accuracy by the task unless named; None
    without it."""
    if validation is None:
        return None
    monitor = monitor or ("dice" if task == "segmentation" else "accuracy")
    value = validation.get(monitor)
    if value is None:
        return None
    return -float(value) if monitor == "loss" else float(value)
