"""The plots of a forecast: efficiency over ranks, and where the time of an epoch goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dhhpc.scaling.forecasts.forecast import GOOD_EFFICIENCY, Row
from dhhpc.scaling.reports.plots import (
    BLACK,
    BLUE,
    GREY,
    PAGE_INCHES,
    STYLE,
    TIME_PARTS,
    save,
)

SHARES = (*TIME_PARTS, ("other", "beside samples", GREY, ""))


def plot_forecast(rows: Sequence[Row], measured: Sequence[int], title: str, path: Path) -> None:
    """Efficiency of each number of ranks, modelled; numbers of ranks that runs measured are filled. Beside it
    the shares of an epoch's time."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((PAGE_INCHES, 3.0))
        curve, stack = figure.subplots(1, 2)
        ranks = [row.ranks for row in rows]
        curve.axhline(1, ls="--", color=BLACK, label="ideal")
        curve.axhline(GOOD_EFFICIENCY, ls=":", color="#888888", label=f"{GOOD_EFFICIENCY:g}")
        curve.plot(ranks, [row.efficiency for row in rows], "o-", color=BLUE, mfc="white", label="modelled")
        known = [row for row in rows if row.ranks in measured]
        if known:
            heights = [row.efficiency for row in known]
            label = "modelled, ranks that were measured"
            curve.plot([row.ranks for row in known], heights, "o", color=BLUE, label=label)
        curve.set_xscale("log", base=2 if ranks[-1] <= 64 else 10)
        curve.set(xlabel="ranks", ylabel="efficiency", title=title)
        curve.set_ylim(0, max(1.0, *(row.efficiency for row in rows)) * 1.1)
        curve.legend(loc="lower left", fontsize=7)
        bottom = np.zeros(len(rows))
        for name, label, color, hatch in SHARES:
            heights = [100 * row.shares[name] for row in rows]
            stack.bar(
                range(len(rows)),
                heights,
                0.8,
                bottom,
                color=color,
                label=label,
                hatch=hatch,
                ec="white",
                lw=0.3,
            )
            bottom += heights
        stack.set_xticks(range(len(rows)), [str(count) for count in ranks], rotation=45)
        stack.set(xlabel="ranks", ylabel="% of an epoch", title="Where the time goes (modelled)")
        stack.grid(False, axis="x")
        figure.legend(*stack.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
        save(figure, path)
