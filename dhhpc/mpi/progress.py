"""What a rank is doing: set by its main thread, read by the watch over ranks in a thread of its own."""

from __future__ import annotations


class Progress:
    """Where the main thread of this rank is. To set it costs no call of the operating system.

    Who reads `steps` last, and finds it as it was, knows that all else is as old as that: what makes a rank
    look worse, to leave a collective or to lose patience, comes after a step.

    Attributes:
        phase: what it does, in words that follow "it was in": "epoch 3, batch 17".
        steps: grows whenever it gets somewhere: with each phase, and with each collective that it enters or
            leaves.
        waiting: the collective of `World` that it is in now, where others may keep it waiting; None outside.
        patience: seconds that one step may take at least, where kernels may have to be compiled.
    """

    def __init__(self) -> None:
        self.phase = "its start"
        self.steps = 0
        self.waiting: str | None = None
        self.patience = 0.0

    def at(self, phase: str) -> None:
        """This rank begins something."""
        self.phase = phase
        self.steps += 1

    def goes_on(self) -> None:
        """This rank has done a part of what it is doing."""
        self.steps += 1

    def enter(self, collective: str) -> None:
        """From now on others may keep this rank waiting."""
        self.waiting = collective
        self.steps += 1

    def leave(self) -> None:
        """The collective is over."""
        self.steps += 1
        self.waiting = None
