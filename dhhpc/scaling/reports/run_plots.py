"""The plots of one run: how it learned, and where the time of its epochs went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dhhpc.scaling.reports.plots import BLUE, GREEN, ORANGE, PAGE_INCHES, PURPLE, STYLE, VERMILION, save

History = Sequence[dict[str, Any]]

# Of a rank's seconds: the name in a record, words, colour and hatch.
PARTS = (
    ("compute", "compute", BLUE, ""),
    ("communication", "communication", ORANGE, "///"),
    ("wait", "waiting for ranks", VERMILION, "..."),
    ("data", "waiting for data", GREEN, "xxx"),
    ("validation", "validation", PURPLE, "\\\\\\"),
)


def plot_learning(history: History, metric: str | None, selected: int | None, path: Path) -> None:
    """Loss and, beside it, the metric that chose the model, over the epochs: training solid, validation
    dashed; a line marks the epoch that was selected."""
    epochs = [epoch["epoch"] + 1 for epoch in history]
    shown = ["loss"] if metric is None else ["loss", metric]
    with matplotlib.rc_context(STYLE):
        figure = Figure((PAGE_INCHES * (0.5 if metric is None else 1), 2.6))
        panels = np.atleast_1d(figure.subplots(1, len(shown)))
        for axes, name in zip(panels, shown, strict=True):
            if name in history[0]:
                training = [epoch[name] for epoch in history]
                axes.plot(epochs, training, "o-", ms=3, color=BLUE, label="training")
            held = [
                (number, epoch["validation"][name])
                for number, epoch in zip(epochs, history, strict=True)
                if epoch.get("validation", {}).get(name) is not None
            ]
            if held:
                axes.plot(*zip(*held, strict=True), "s--", ms=3, color=VERMILION, label="validation")
            if selected is not None:
                axes.axvline(selected, color="#888888", lw=1, ls=":", label="selected epoch")
            axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="x", integer=True)
            axes.legend(fontsize=7)
        save(figure, path)


def plot_epochs(history: History, path: Path) -> None:
    """Seconds of each epoch as a stack of what the ranks did, means over the ranks."""
    epochs = [epoch["epoch"] + 1 for epoch in history]
    with matplotlib.rc_context(STYLE):
        figure = Figure((PAGE_INCHES, 2.6))
        axes = figure.add_subplot()
        bottom = np.zeros(len(history))
        for name, label, color, hatch in PARTS:
            seconds = np.array(
                [np.mean([rank.get(name, 0.0) for rank in epoch["ranks"]]) for epoch in history]
            )
            axes.bar(epochs, seconds, 0.8, bottom, color=color, label=label, hatch=hatch, ec="white", lw=0.3)
            bottom += seconds
        axes.set(xlabel="epoch", ylabel="seconds")
        axes.locator_params(axis="x", integer=True)
        axes.grid(False, axis="x")
        figure.legend(loc="outside right upper", fontsize=7)
        save(figure, path)
