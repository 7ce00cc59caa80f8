"""What a study measures: its points, in which order, and what each changes in the experiment."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dhhpc.scaling.studies.study import Study

RUNS = "runs"


@dataclass(frozen=True)
class Task:
    """A point to measure.

    Attributes:
        ranks, repeat: how many, and which time from 1.
        epochs: that it trains.
        variant: of the study's; "" for the experiment as it is.
        threads: of each rank; None for what the experiment says.
        settings: of the experiment that it changes, as `dhhpc train --set` takes them.
    """

    ranks: int
    repeat: int
    epochs: int
    variant: str = ""
    threads: int | None = None
    settings: tuple[str, ...] = ()

    @property
    def run(self) -> str:
        """Its run folder below the study's."""
        named = f"{self.variant}-" if self.variant else ""
        wide = f"-threads-{self.threads}" if self.threads else ""
        return f"{RUNS}/{named}ranks-{self.ranks}{wide}-repeat-{self.repeat}"

    @property
    def title(self) -> str:
        """For people who wait for it."""
        title = f"{self.variant}: " if self.variant else ""
        title += f"train on {self.ranks} rank{'s' if self.ranks > 1 else ''}"
        if self.threads:
            title += f" x {self.threads} thread{'s' if self.threads > 1 else ''}"
        return title + (f", run {self.repeat}" if self.repeat > 1 else "")


def tasks_of(study: Study, epochs: int) -> list[Task]:
    """Every point of a study, as its tables list them: variant by variant, threads, ranks, repeats.

    One rank does not average: variants that only tell how share the point of the experiment as it is, which
    is the base of all of them.

    Args:
        epochs: of the experiment.
    """
    found: dict[tuple[str, int | None, int], Task] = {}
    for variant, changes in (study.variants or {"": {}}).items():
        only_together = bool(changes) and all(key.partition(".")[0] == "parallel" for key in changes)
        for threads in study.threads or (None,):
            for ranks in study.ranks:
                shared = ranks == 1 and only_together
                name = "" if shared else variant
                trained = epochs * (ranks if study.mode == "weak" else 1)
                found[name, threads, ranks] = Task(
                    ranks, 1, trained, name, threads, () if shared else settings_of(changes)
                )
    return [
        Task(task.ranks, repeat, task.epochs, task.variant, task.threads, task.settings)
        for task in found.values()
        for repeat in range(1, study.repeats + 1)
    ]


def settings_of(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """`key=value` of each changed key, the value in JSON, which YAML is a superset of."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def in_turn(tasks: list[Task], study: Study) -> list[Task]:
    """The order in which a study measures: every repeat has all points once, in an order of its own.

    What drifts, such as the machine's temperature or other users' work, then falls upon all points alike (a
    randomised complete block design; Box, Hunter and Hunter, "Statistics for Experimenters", 2005, chapter
    4). The study's seed draws the orders, so that a study that goes on does so in the same.
    """
    blocks = [[task for task in tasks if task.repeat == number + 1] for number in range(study.repeats)]
    if study.order == "random":
        chance = random.Random(study.seed)
        for block in blocks:
            chance.shuffle(block)
    return [task for block in blocks for task in block]
