"""A pass over the layers of a plan, forward or backward.

The first time every layer runs. It is recorded which kernels those call that repeat themselves, see
`Layer.repeats`, and from then on the kernels of neighbouring ones run again without the layers.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dhhpc.eddl.graph import Array

# An interrupt comes through between parts of a pass.
MOST_STEPS = 32


@dataclass
class Step:
    """What a layer does, or what is done between two, and whether it repeats itself."""

    run: Callable[[], object]
    repeats: bool


class Callbacks:
    """What a backward pass calls, another function each time.

    Steps hold this and not their plan, which would then hold itself, and its memory once nobody needs it.
    """

    def __init__(self) -> None:
        self.now: tuple[Any, Any] = (None, None)

    @contextlib.contextmanager
    def calling(self, update: Any, completed: Any) -> Iterator[None]:
        """Meanwhile these are called."""
        self.now = update, completed
        try:
            yield
        finally:
            self.now = None, None

    def update(self, parameters: Array, gradients: Array) -> None:
        self.now[0](parameters, gradients)

    def completed(self, gradients: Sequence[Array]) -> None:
        self.now[1](gradients)


class Part:
    """Neighbouring steps that repeat themselves."""

    def __init__(self, kernels: ModuleType, steps: Iterable[Step]) -> None:
        self.kernels, self.steps = kernels, list(steps)
        self.replay: Any = None
        self.can_repeat = True

    def run(self) -> None:
        if self.replay is not None and self.replay.fits:
            self.replay.run()
        elif self.can_repeat:
            self.replay = self.kernels.record(self.run_steps)
            self.can_repeat = self.replay is not None
        else:
            self.run_steps()

    def run_steps(self) -> None:
        for step in self.steps:
            step.run()


class Passes:
    """The passes of one plan."""

    def __init__(self, kernels: ModuleType) -> None:
        self.kernels = kernels
        self.made: dict[Hashable, list[Step | Part]] = {}

    def run(self, name: Hashable, steps: Callable[[], Iterable[Step]]) -> None:
        """Run all steps in order. They must be the same ones whenever the name is the same."""
        if name not in self.made:
            self.made[name] = parts(self.kernels, steps())
        for part in self.made[name]:
            part.run()

    def clear(self) -> None:
        """Forget all, as the steps have got other arrays."""
        self.made.clear()


def parts(kernels: ModuleType, steps: Iterable[Step]) -> list[Step | Part]:
    """The steps, those that repeat themselves joined with their neighbours."""
    found: list[Step | Part] = []
    for repeats, neighbours in itertools.groupby(steps, lambda step: step.repeats):
        if not repeats:
            found += neighbours
            continue
        while joined := list(itertools.islice(neighbours, MOST_STEPS)):
            found.append(Part(kernels, joined))
    return found
