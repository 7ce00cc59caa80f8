"""What a study measures: its points, in which order, and what each changes in the experiment."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from dhhpc.scaling.studies.preprocessing_study import PreprocessingStudy
from dhhpc.scaling.studies.study import Study

RUNS = "runs"


class Repeated(Protocol):
    """A point that is measured several times: this is which time, from 1."""

    @property
    def repeat(self) -> int: ...


AnyTask = TypeVar("AnyTask", bound=Repeated)


@dataclass(frozen=True)
class Task:
    """A point to measure.

    Attributes:
        ranks, repeat: how many, and which time from 1.
        epochs: that it trains.
        variant: of the study's; "" for the experiment as it is.
        threads: of each rank; None for what the experiment says.
        nodes: that hold equally many of the ranks; None for where they are started.
        settings: of the experiment that it changes, as `dhhpc train --set` takes them.
    """

    ranks: int
    repeat: int
    epochs: int
    variant: str = ""
    threads: int | None = None
    nodes: int | None = None
    settings: tuple[str, ...] = ()

    @property
    def point(self) -> str:
        """Its name, which its repeats share."""
        named = f"{self.variant}-" if self.variant else ""
        spread = f"-nodes-{self.nodes}" if self.nodes else ""
        wide = f"-threads-{self.threads}" if self.threads else ""
        return f"{named}ranks-{self.ranks}{spread}{wide}"

    @property
    def run(self) -> str:
        """Its run folder below the study's."""
        return f"{RUNS}/{self.point}-repeat-{self.repeat}"

    @property
    def ranks_per_node(self) -> int | None:
        """None where the study does not say it."""
        return self.ranks // self.nodes if self.nodes else None

    @property
    def title(self) -> str:
        """For people who wait for it."""
        title = f"{self.variant}: " if self.variant else ""
        title += f"train on {layout(self.ranks, self.nodes, self.threads)}"
        return title + (f", run {self.repeat}" if self.repeat > 1 else "")


def layout(ranks: int, nodes: int | None, threads: int | None) -> str:
    """Ranks, their threads and the nodes that they are on, in words; None is not told."""
    text = f"{ranks} rank{'s' if ranks > 1 else ''}"
    if threads:
        text += f" x {threads} thread{'s' if threads > 1 else ''}"
    return text + (f" on {nodes} node{'s' if nodes > 1 else ''}" if nodes else "")


def tasks_of(study: Study, epochs: int) -> list[Task]:
    """Every point of a study, as its tables list them: variant by variant, threads, nodes, ranks, repeats.

    Ranks that a number of nodes does not divide have no point there; see `undivided`.
    One rank does not average: variants that only tell how share the point of the experiment as it is, which
    is the base of all of them.

    Args:
        epochs: of the experiment, which count where the study tells none.
    """
    found: dict[tuple[str, int | None, int | None, int], Task] = {}
    for variant, changes in (study.variants or {"": {}}).items():
        only_together = bool(changes) and all(key.partition(".")[0] == "parallel" for key in changes)
        grid = itertools.product(study.threads or (None,), study.nodes or (None,), study.ranks)
        for threads, nodes, ranks in grid:
            if ranks % (nodes or 1):
                continue
            shared = ranks == 1 and only_together
            name = "" if shared else variant
            trained = (study.epochs or epochs) * (ranks if study.mode == "weak" else 1)
            settings = () if shared else settings_of(changes)
            found[name, threads, nodes, ranks] = Task(ranks, 1, trained, name, threads, nodes, settings)
    return [replace(task, repeat=repeat) for task in found.values() for repeat in range(1, study.repeats + 1)]


def undivided(study: Study) -> list[str]:
    """The ranks of a study that a number of its nodes cannot hold equally many of each, in words."""
    return [
        layout(ranks, nodes, None)
        for nodes, ranks in itertools.product(study.nodes, study.ranks)
        if ranks % nodes
    ]


def settings_of(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """`key=value` of each changed key, the value in JSON, which YAML is a superset of."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in changes.items())


def in_turn(tasks: list[AnyTask], study: Study | PreprocessingStudy) -> list[AnyTask]:
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
