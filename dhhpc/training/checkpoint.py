"""Checkpoints on disk: a part from each rank that has one, and a description, checked on reading."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, replacing, sync_folder, write_error, write_json
from dhhpc.training.layout import Array, Layout

NAME = re.compile(r"epoch-(\d{5})-sample-(\d{9})\.json")
FORMAT = 2
OPTIMIZER_STATE = "optimizer/state"
SET_ASIDE, RECEIPT = ".damaged", ".receipt"
# Bytes that are written, read or hashed at once; after so many those written are brought to the disk.
PIECE, SYNCED = 2**22, 2**26


class EarlierFormatError(DhhpcError):
    """A checkpoint of an earlier version, whole as it may be."""


@dataclass
class Part:
    """What one rank has written: its shard of what all agree upon, then what it has of its own.

    Attributes:
        start, stop: the shard, of the bytes of `Checkpoint.agreed`.
        size: of the file, in bytes.
        sha256: of the file.
    """

    rank: int
    start: int
    stop: int
    size: int
    sha256: str


@dataclass
class Checkpoint:
    """A run between two batches, without its arrays.

    Attributes:
        epoch, samples: the position: an epoch, from 0, and how many of its samples all ranks together have
            taken.
        ranks: of the world that wrote it.
        history: a record of every finished epoch.
        sums: sample-weighted sums of the unfinished epoch's loss and metrics, over all ranks.
        seconds: wall time of the run so far.
        score: the monitored metric of the last epoch, larger is better; None unless at an epoch's end.
        agreed, own: the arrays that all ranks agree upon, and those that each has beside them.
        parts: by rank; all of them where ranks have something of their own.
    """

    epoch: int
    samples: int
    ranks: int
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    score: float | None = None
    agreed: Layout = field(default_factory=lambda: Layout([]))
    own: Layout = field(default_factory=lambda: Layout([]))
    parts: list[Part] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"epoch-{self.epoch:05d}-sample-{self.samples:09d}"

    def describe(self) -> dict[str, Any]:
        """What the description holds, but for its own SHA-256."""
        return vars(self) | {
            "format": FORMAT,
            "agreed": self.agreed.describe(),
            "own": self.own.describe(),
            "parts": [asdict(part) for part in self.parts],
        }


class CheckpointFolder:
    """The checkpoints of a run: NAME.json describes one, NAME-rank-00000.part and so on hold its arrays.

    A part is the bytes of the arrays, one after the other. The description has the SHA-256 of each, and of
    itself, and is written last: without it a checkpoint does not exist.

    Args:
        folder: made when the first checkpoint is written.
        keep: how many of the newest are kept, beside the best.
        went_on: called after every piece that is read.
    """

    def __init__(self, folder: Path, keep: int = 2, went_on: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self.went_on = folder, keep, went_on

    def description(self, checkpoint: Checkpoint) -> Path:
        return self.folder / f"{checkpoint.name}.json"

    def part(self, checkpoint: Checkpoint, rank: int) -> Path:
        return self.folder / f"{checkpoint.name}-rank-{rank:05d}.part"

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

    # -- writing -------------------------------------------------------------------------------------------

    def write_part(
        self, checkpoint: Checkpoint, rank: int, content: Array, went_on: Callable[[], None]
    ) -> str:
        """Write the part of a rank (uint8) to the disk; returns its SHA-256.

        Args:
            went_on: called after every piece that is written; what it raises ends the writing.

        Raises:
            DhhpcError: it cannot be written; nothing is left of it.
        """
        path, digest = self.part(checkpoint, rank), hashlib.sha256()
        with replacing(path) as temporary, open(temporary, "wb") as file:
            for start in range(0, len(content), PIECE):
                piece = content[start : start + PIECE].data
                file.write(piece)
                digest.update(piece)
                if start % SYNCED == SYNCED - PIECE:  # the last sync of a slow disk would take long
                    file.flush()
                    os.fdatasync(file.fileno())
                went_on()
        return digest.hexdigest()

    def leave_receipt(self, checkpoint: Checkpoint, part: Part) -> None:
        """Tell rank 0 that a part is on the disk and will outlast a crash, by an empty file with its SHA-256
        in its name: it appears whole and costs no sync.

        Raises:
            DhhpcError: it cannot be written.
        """
        sync_folder(self.folder)
        path = self.folder / f".{checkpoint.name}-rank-{part.rank:05d}-{part.sha256}{RECEIPT}"
        try:
            path.touch()
        except OSError as error:
            raise write_error(path, error) from error

    def receipts(self, checkpoint: Checkpoint) -> dict[int, str]:
        """By rank, the SHA-256 of the parts whose receipts are there by now."""
        start, found = f".{checkpoint.name}-rank-", {}
        for name in os.listdir(self.folder):  # one question to the file system, for however many ranks
            if name.startswith(start) and name.endswith(RECEIPT):
                rank, _, digest = name.removeprefix(start).removesuffix(RECEIPT).partition("-")
                found[int(rank)] = digest
        return found

    def write_description(self, checkpoint: Checkpoint) -> Path:
        """Make a checkpoint whose parts are all there exist, to outlast a crash of the machine.

        Raises:
            DhhpcError: it cannot be written.
        """
        path, content = self.description(checkpoint), checkpoint.describe()
        is_first = not self.descriptions()
        write_json(path, content | {"sha256": digest_of(content)})
        sync_folder(self.folder)
        if is_first:
            sync_folder(self.folder.parent)
        return path

    def remove_old(self, went_on: Callable[[], None] = lambda: None) -> None:
        """Remove the checkpoints that are neither among the newest nor the best, and what has no description.

        Raises:
            DhhpcError: a file cannot be removed.
        """
        best = self.best()
        for path in self.descriptions()[: -self.keep]:
            if path != best:
                # The description goes first, so that no description is ever without its parts.
                self.remove(path)
        self.remove_left_overs(went_on, damaged=True)

    def remove_left_overs(self, went_on: Callable[[], None] = lambda: None, damaged: bool = False) -> None:
        """Remove what a run that was killed has left of a checkpoint; none is being written meanwhile.

        Args:
            damaged: also those that have been set aside.

        Raises:
            DhhpcError: a file cannot be removed.
        """
        kept = self.descriptions()
        if not damaged:
            kept += self.folder.glob(f"epoch-*{SET_ASIDE}")
        stems = {path.name.partition(".")[0] for path in kept}
        for path in [*self.folder.glob(".epoch-*"), *self.folder.glob("epoch-*")]:
            part_of = path.stem.partition("-rank-")[0] if path.suffix == ".part" else None
            if path not in kept and part_of not in stems:
                self.remove(path)
                went_on()

    def remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error

    def set_aside(self, path: Path) -> None:
        """A damaged checkpoint no longer exists; its files stay until another one has been written.

        Raises:
            DhhpcError: its description cannot be renamed.
        """
        try:
            path.replace(path.with_name(f"{path.name}{SET_ASIDE}"))
        except OSError as error:
            raise write_error(path, error) from error

    # -- reading -------------------------------------------------------------------------------------------

    def load(self, path: Path) -> Checkpoint:
        """The checkpoint described by `path`; its parts are still to be checked.

        Raises:
            EarlierFormatError: it is of an earlier version.
            DhhpcError: the description is missing or damaged.
        """
        content = read_json(path)
        if isinstance(content, dict) and "format" not in content and "arrays" in content:
            raise EarlierFormatError(
                f"{path}: a checkpoint of an earlier version of dhhpc, which this one does not read; finish "
                f"the run with that version or train anew with another --output"
            )
        try:
            expected = content.pop("sha256")
            if digest_of(content) != expected:
                raise DhhpcError(f"{path}: the checkpoint is damaged (its SHA-256 has changed)")
            if content.pop("format") != FORMAT:
                raise EarlierFormatError(f"{path}: no checkpoint of format {FORMAT}; use another dhhpc")
            content["agreed"], content["own"] = Layout(content["agreed"]), Layout(content["own"])
            content["parts"] = [Part(**part) for part in content["parts"]]
            return Checkpoint(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise DhhpcError(f"{path}: no checkpoint description ({error})") from None

    def check(self, checkpoint: Checkpoint, part: Part) -> None:
        """Whether a part is as it was written.

        Raises:
            DhhpcError: it is missing or damaged.
        """
        path, digest = self.part(checkpoint, part.rank), hashlib.sha256()
        try:
            with open(path, "rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
                    self.went_on()
        except FileNotFoundError:
            raise DhhpcError(f"{path}: a part of the checkpoint is missing") from None
        except OSError as error:
            raise DhhpcError(f"{path}: cannot be read ({error.strerror}); check the disk") from None
        if digest.hexdigest() != part.sha256:
            raise DhhpcError(f"{path}: the checkpoint is damaged (its SHA-256 has changed)")

    def read(self, checkpoint: Checkpoint, part: Part, start: int, out: Array) -> None:
        """Fill `out` (uint8) with the bytes of a part's file from `start` on.

        Raises:
            DhhpcError: they are not there.
        """
        path = self.part(checkpoint, part.rank)
        try:
            with open(path, "rb") as file:
                file.seek(start)
                for first in range(0, len(out), PIECE):
                    piece = out[first : first + PIECE].data
                    if file.readinto(piece) != len(piece):
                        raise DhhpcError(f"{path}: the checkpoint is damaged (it is too short)")
                    self.went_on()
        except OSError as error:
            raise DhhpcError(f"{path}: cannot be read ({error.strerror}); check the disk") from None

    def own(self, checkpoint: Checkpoint, part: Part) -> dict[str, Array]:
        """The arrays that the rank of a part had of its own.

        Raises:
            DhhpcError: they cannot be read.
        """
        row = np.empty(checkpoint.own.size, np.uint8)
        self.read(checkpoint, part, part.stop - part.start, row)
        return checkpoint.own.views(row)

    def state(self, checkpoint: Checkpoint) -> dict[str, Array]:
        """What all ranks agreed upon, read by one rank, with rank 0's optimizer where each had its own.

        Raises:
            DhhpcError: a part is missing or damaged.
        """
        row = np.empty(checkpoint.agreed.size, np.uint8)
        for part in checkpoint.parts:
            self.check(checkpoint, part)
            self.read(checkpoint, part, 0, row[part.start : part.stop])
        state = checkpoint.agreed.views(row)
        if OPTIMIZER_STATE in checkpoint.own.entries:
            own = self.own(checkpoint, checkpoint.parts[0])
            state[OPTIMIZER_STATE] = own[OPTIMIZER_STATE]
        return state


def digest_of(content: dict[str, Any]) -> str:
    """The SHA-256 of a description, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
