"""The plots of a study's forecast, which look like no measured ones: dashed, hollow, on a tinted ground, and
labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dhhpc.scaling.reports.plots import (
    BLACK,
    BLUE,
    COLUMN_INCHES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    TIME_PARTS,
    VERMILION,
    number_axis,
    save,
)
from dhhpc.scaling.studies.forecast_document import StudyForecast, VariantForecast
from dhhpc.scaling.studies.kinds import AS_IT_IS

LABEL = "forecast, not measured"
GROUND = "#f7f0f4"
# Other colours first than those of measured lines, and markers that are not theirs.
LOOKS = tuple(zip((PURPLE, BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION), "*pdh<>8", strict=True))
PARTS = (*TIME_PARTS, ("other", "beside samples", GREY, "|||"))
# So many numbers of ranks have room below a column's axis.
MOST_TICKS = 6


def plot_forecast_speed_up(forecast: StudyForecast, path: Path) -> None:
    """Modelled speed-up over ranks beside the ideal line S(n) = n."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((COLUMN_INCHES, 3.0))
        axes = figure.add_subplot()
        ranks = ranks_of(forecast)
        axes.plot([ranks[0], ranks[-1]], [ranks[0], ranks[-1]], "-", color="#888888", lw=1, label="ideal")
        plot_modelled(axes, forecast, "speed_up")
        axes.set(xlabel="ranks", ylabel="speed-up", title=headed("Speed-up", forecast), yscale="log")
        rank_ticks(axes, ranks)
        number_axis(axes)
        figure.legend(loc="outside lower center", ncols=1 if len(forecast.variants) > 1 else 2, fontsize=7)
        save(figure, path)


def plot_forecast_efficiency(forecast: StudyForecast, path: Path) -> None:
    """Modelled efficiency over ranks, with the ideal 1 and the efficiency that is called good."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((COLUMN_INCHES, 3.0))
        axes = figure.add_subplot()
        ranks = ranks_of(forecast)
        limit = forecast.efficiency_limit
        axes.axhline(1, ls="-", color="#888888", lw=1, label="ideal")
        axes.axhline(limit, ls=":", color="#888888", label=f"efficiency of {limit:g}")
        plot_modelled(axes, forecast, "efficiency")
        axes.set(xlabel="ranks", ylabel="efficiency", title=headed("Efficiency", forecast))
        rank_ticks(axes, ranks)
        highest = max(row.efficiency for variant in forecast.variants for row in variant.rows)
        axes.set_ylim(0, max(1.0, highest) * 1.15)
        figure.legend(loc="outside lower center", ncols=1 if len(forecast.variants) > 1 else 2, fontsize=7)
        save(figure, path)


def plot_forecast_time(forecast: StudyForecast, path: Path) -> None:
    """Modelled shares of an epoch's time by number of ranks, a panel for each variant."""
    with matplotlib.rc_context(STYLE | {"axes.facecolor": GROUND}):
        count = len(forecast.variants)
        figure = Figure((COLUMN_INCHES, 1.2 + 1.9 * count))
        panels = np.atleast_1d(figure.subplots(count, 1))
        for axes, variant in zip(panels, forecast.variants, strict=True):
            places = range(len(variant.rows))
            bottom = np.zeros(len(variant.rows))
            for name, label, color, hatch in PARTS:
                heights = np.array([100 * row.shares[name] for row in variant.rows])
                # Hollow, where measured bars are full.
                axes.bar(
                    places, heights, 0.7, bottom, color="white", label=label, hatch=hatch, ec=color, lw=0.8
                )
                bottom += heights
            axes.set_xticks(places, [f"{row.ranks}" for row in variant.rows], rotation=45)
            axes.set(ylabel="% of an epoch", title=headed("Parts of an epoch", forecast, variant))
            axes.grid(False, axis="x")
        panels[-1].set_xlabel("ranks")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
        save(figure, path)


def headed(subject: str, forecast: StudyForecast, variant: VariantForecast | None = None) -> str:
    """A title that nobody takes for that of a measurement."""
    of_variant = f", {name_of(variant)}" if variant is not None and len(forecast.variants) > 1 else ""
    return f"{subject}{of_variant}: forecast\nfor {forecast.machine['name']}"


def name_of(variant: VariantForecast) -> str:
    return variant.variant or AS_IT_IS


def ranks_of(forecast: StudyForecast) -> list[int]:
    return sorted({row.ranks for variant in forecast.variants for row in variant.rows})


def plot_modelled(axes: Any, forecast: StudyForecast, figure: str) -> None:
    """A figure of each row, a dashed line for each variant, and how far measured numbers of ranks reach."""
    axes.set_facecolor(GROUND)
    count = len(forecast.variants)
    for number, variant in enumerate(forecast.variants):
        color, marker = LOOKS[number % len(LOOKS)]
        named = f"{name_of(variant)}: {LABEL}" if count > 1 else LABEL
        up = [getattr(row, figure) for row in variant.rows]
        across = [row.ranks for row in variant.rows]
        # Of lines upon each other each has its turn of dashes, and a smaller marker than the one before.
        axes.plot(
            across,
            up,
            color=color,
            ls=(2.5 * number, (2.5, max(1.5, 2.5 * (count - 1)))),
            marker=marker,
            mfc="white",
            ms=4 + min(6, 2 * (count - number)),
            label=named,
        )
    most = max(variant.measured_ranks[-1] for variant in forecast.variants)
    if ranks_of(forecast)[0] <= most <= ranks_of(forecast)[-1]:
        axes.axvline(most, color=VERMILION, lw=1, ls="-.", label=f"most ranks measured: {most}")


def rank_ticks(axes: Any, ranks: Sequence[int]) -> None:
    """A logarithmic axis with ticks at forecast numbers of ranks, evenly chosen where they are too many."""
    axes.set_xscale("log")
    axes.set_xlim(ranks[0] / 1.3, ranks[-1] * 1.3)
    chosen = np.unique(np.linspace(0, len(ranks) - 1, min(len(ranks), MOST_TICKS)).round().astype(int))
    axes.xaxis.set_major_locator(FixedLocator([ranks[place] for place in chosen]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value:.1e}")
    axes.xaxis.set_minor_locator(NullLocator())


def draw_forecast(forecast: StudyForecast, folder: Path) -> dict[str, Path]:
    """Draw every plot of a forecast into `folder`; returns their paths by name, in reading order."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {}
    for name, plot in (
        ("forecast-efficiency", plot_forecast_efficiency),
        ("forecast-speed-up", plot_forecast_speed_up),
        ("forecast-time", plot_forecast_time),
    ):
        plots[name] = folder / f"{name}.png"
        plot(forecast, plots[name])
    return plots
