"""What begins during the backward pass: the optimizer's step, so that large gradients are never kept, and
whatever is done with gradients that are there already."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import ModuleType

from dhhpc.eddl.graph import Array
from dhhpc.eddl.optimizers import Optimizer


def place_in(vector: Array, piece: Array) -> int:
    """Where a contiguous piece of a vector begins in it."""
    return int(piece.ctypes.data - vector.ctypes.data) // vector.itemsize


class EarlyStep:
    """One step: layers pass some parameters with their gradients while they run backward, `finish` does the
    rest. Each parameter becomes the same bit for bit as by `Optimizer.step`, which treats it by itself.

    Args:
        parameters, gradients: flat vectors of all; of the gradients only those that no layer passed are read.
    """

    def __init__(
        self, optimizer: Optimizer, kernels: ModuleType, parameters: Array, gradients: Array
    ) -> None:
        self.optimizer, self.kernels = optimizer, kernels
        self.parameters, self.gradients = parameters, gradients
        self.updated: list[tuple[int, int]] = []
        optimizer.step_count += 1

    def __call__(self, parameters: Array, gradients: Array) -> None:
        """Update a contiguous piece of the parameters."""
        start = place_in(self.parameters, parameters)
        self.update(start, start + parameters.size, gradients.reshape(-1, copy=False))
        self.updated.append((start, start + parameters.size))

    def finish(self) -> None:
        """Update all other parameters."""
        ends = [0, *itertools.chain(*sorted(self.updated)), self.parameters.size]
        for start, stop in zip(ends[::2], ends[1::2], strict=True):
            if start < stop:
                self.update(start, stop, self.gradients[start:stop])

    def update(self, start: int, stop: int, gradients: Array) -> None:
        states = [state[start:stop] for state in self.optimizer.states]
        self.optimizer.update(self.kernels, self.parameters[start:stop], gradients, states)


class CompletedTail:
    """How much of the end of a gradient vector is there, while layers run backward.

    Args:
        gradients: the flat vector of all gradients.
        tell: called with the place from which on it is complete, whenever that moves.
    """

    def __init__(self, gradients: Array, tell: Callable[[int], None]) -> None:
        self.gradients, self.tell = gradients, tell
        self.start = gradients.size
        self.pieces: dict[int, int] = {}  # where each one ends that lies before a gap: where it starts

    def __call__(self, pieces: Sequence[Array]) -> None:
        """Some pieces of the vector are complete."""
        for piece in pieces:
            start = place_in(self.gradients, piece)
            self.pieces[start + piece.size] = start
        before = self.start
        while self.start in self.pieces:
            self.start = self.pieces.pop(self.start)
        if self.start < before:
            self.tell(self.start)
