"""A series: one experiment with several seeds, on the folds of a cross-validation, or both."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhhpc.data.folds import Fold
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json
from dhhpc.training.experiment import Experiment
from dhhpc.training.resumption import changed_keys
from dhhpc.training.run_record import RECORD, SERIES, read_run

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Member:
    """One run of a series: its name, which is also its folder's, and its own experiment."""

    name: str
    experiment: Experiment

    @property
    def folder(self) -> Path:
        return self.experiment.folder


class Series:
    """Runs of one experiment that differ in their seed, in the part of the samples that validates, or both.

    Args:
        experiment: its folder is that of the series, its seed the first, and that of the cut into folds.
        seeds: how many seeds, counted on from the experiment's; None for that one alone.
        folds: how many parts the training and validation samples are cut into; None for the splits that the
            shards have.

    Raises:
        DhhpcError: a number makes no series, or the experiment names a fold itself.
    """

    def __init__(self, experiment: Experiment, seeds: int | None, folds: int | None) -> None:
        if seeds is not None and seeds < 1:
            raise DhhpcError(f"--seeds {seeds}: give a number of seeds of at least 1")
        if folds is not None and folds < 2:
            raise DhhpcError(f"--folds {folds}: give a number of folds of at least 2")
        if folds is not None and experiment.data.fold is not None:
            raise DhhpcError(f"--folds {folds}: the experiment names one fold (data.fold); drop one of both")
        self.experiment, self.seed_count, self.folds = experiment, seeds, folds
        self.folder = experiment.folder

    @property
    def seeds(self) -> list[int]:
        first = self.experiment.seed
        return [first + number for number in range(self.seed_count or 1)]

    @property
    def members(self) -> list[Member]:
        """In the order in which they are trained: seed-1, seed-2, ...; fold-1, ...; or fold-1-seed-1, ..."""
        found = []
        for part in range(1, (self.folds or 1) + 1):
            for seed in self.seeds:
                experiment = self.experiment.model_copy(deep=True)
                experiment.seed = seed
                names = [f"fold-{part}"] if self.folds else []
                if self.seed_count is not None:
                    names.append(f"seed-{seed}")
                if self.folds:
                    experiment.data.fold = Fold(part=part, of=self.folds, seed=self.experiment.seed)
                name = "-".join(names)
                experiment.output = self.folder / name
                found.append(Member(name, experiment))
        return found

    def status(self, member: Member) -> str:
        """ "finished"; else why the member does not count: "not started", "running", "stopped", "failed",
        "damaged", or what it was trained with instead."""
        if not (member.folder / RECORD).is_file():
            return "not started"
        try:
            content = read_run(member.folder).content
            changed = changed_keys(content, member.experiment)
            epochs = len(content.get("history", []))
        except (DhhpcError, KeyError):
            return "damaged"
        if changed:
            return f"another {changed[0]}"
        if content["status"] == "finished" and epochs != member.experiment.epochs:
            return f"{epochs} epochs"
        return str(content["status"])

    def document(self) -> dict[str, Any]:
        """What series.json says of the series before anything is trained."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.experiment.name,
            "experiment": self.experiment.model_dump(mode="json"),
            "seeds": self.seeds if self.seed_count is not None else None,
            "folds": self.folds,
        }

    def claim(self, resume: bool) -> bool:
        """Take the folder, by series.json in it; whether it was free.

        Raises:
            DhhpcError: there is an earlier run or series, and without `resume` or unlike this one.
        """
        path = self.folder / SERIES
        if (self.folder / RECORD).exists():
            raise DhhpcError(f"{self.folder}: holds a single run; choose another folder with --output")
        if not path.exists():
            write_json(path, self.document())
            return True
        if not resume:
            raise DhhpcError(
                f"{self.folder}: holds an earlier series; continue it with --resume, or choose another "
                f"folder with --output"
            )
        earlier = read_series(self.folder)
        if (earlier.folds, earlier.seed_count is None) != (self.folds, self.seed_count is None):
            raise DhhpcError(f"{self.folder}: the series there has {earlier.words()}; ask for the same")
        if len(self.seeds) < len(earlier.seeds):
            raise DhhpcError(
                f"{self.folder}: the series there has {len(earlier.seeds)} seeds; none of them may be dropped"
            )
        changed = changed_keys(read_json(path), self.experiment)
        if changed:
            raise DhhpcError(
                f"{self.folder}: the series there was started with another {changed[0]}; set it back to "
                f"resume, or choose another folder with --output"
            )
        if self.document() != earlier.document():
            write_json(path, self.document())
        return False

    def withdraw(self) -> None:
        """Give back a folder that `claim` found free and nothing was trained in."""
        (self.folder / SERIES).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def words(self) -> str:
        """What its members are, in words: "5 folds, seeds 1 to 3"."""
        parts = [f"{self.folds} folds"] if self.folds else []
        if self.seed_count is not None:
            first, last = self.seeds[0], self.seeds[-1]
            parts.append(f"seeds {first} to {last}" if first != last else f"seed {first}")
        return ", ".join(parts)


def holds_series(folder: Path) -> bool:
    """Whether a series lives in `folder`."""
    return (folder / SERIES).is_file()


def read_series(folder: Path | str) -> Series:
    """The series in `folder`, wherever that lay when it was trained.

    Raises:
        DhhpcError: it holds none.
    """
    path = Path(folder) / SERIES
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise DhhpcError(f"{path}: no series of schema version {SCHEMA_VERSION}; train anew")
    experiment = Experiment.model_validate(content["experiment"])
    experiment.output = Path(folder).absolute()
    seeds = content["seeds"]
    return Series(experiment, None if seeds is None else len(seeds), content["folds"])
