"""The plots of a study, as PNG and SVG for the width of a paper's column or page, in colours safe for the
colour-blind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from dhhpc.files import replacing
from dhhpc.scaling.fits.fitted import Fit
from dhhpc.scaling.reports.fit_wording import NAMES
from dhhpc.scaling.studies.gains import interval_name
from dhhpc.scaling.studies.kinds import kind_of, kinds_of
from dhhpc.scaling.studies.preprocessing_results import PreprocessedRow
from dhhpc.scaling.studies.results import Point, Results, Row

Array = np.ndarray[Any, Any]
AnyRow = Row | PreprocessedRow
Kinds = Mapping[str, Sequence[AnyRow]]

# Okabe and Ito's palette, "Color Universal Design", 2008.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
GREY = "#bbbbbb"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX*"  # one more than colours: beyond those, both together still differ
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "savefig.dpi": 220,
    "svg.hashsalt": "dhhpc",  # else names within the file are drawn by chance
    "figure.constrained_layout.use": True,
}
# Where time goes: the field that holds it, words, colour and hatch.
TIME_PARTS = (
    ("compute", "compute", BLUE, ""),
    ("communication", "communication", ORANGE, "///"),
    ("wait", "waiting for ranks", VERMILION, "..."),
    ("data", "waiting for data", GREEN, "xxx"),
    ("validation", "validation", PURPLE, "\\\\\\"),
    ("checkpoint", "checkpoints", SKY, "---"),
)
COLUMN_INCHES, PAGE_INCHES = 3.5, 7.2
# Rank counts this many times apart are drawn at equal ratios.
WIDE = 8


def save(figure: Figure, path: Path) -> None:
    """Write the PNG `path`, and beside it the same as SVG."""
    # No date and no version of what drew it: the same results give the same files.
    for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with replacing(path.with_suffix(f".{form}")) as temporary:
            figure.savefig(temporary, format=form, metadata=metadata)
        # Laid out once, for both alike.
        figure.set_layout_engine("none")


def plot_speed_up(kinds: Kinds, path: Path) -> None:
    """Measured speed-up over ranks beside the ideal line S(n) = n, a line for each kind of work."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((COLUMN_INCHES, 2.6))
        axes = figure.add_subplot()
        ranks = sorted({row.ranks for rows in kinds.values() for row in rows})
        axes.plot([ranks[0], ranks[-1]], [ranks[0], ranks[-1]], "--", color=BLACK, label="ideal")
        highest = plot_measured(axes, kinds, "speed_up")
        axes.set(xlabel="ranks", ylabel="speed-up", title="Speed-up")
        rank_axis(axes, ranks)
        if axes.get_xscale() == "log":
            axes.set_yscale("log")
            number_axis(axes)
            axes.set_ylim(ranks[0] / 1.6, max(ranks[-1], highest) * 1.3)
        else:
            axes.set_ylim(0, max(ranks[-1], highest) * 1.12)
        axes.legend(loc="upper left")
        save(figure, path)


def plot_measured(axes: Any, kinds: Kinds, figure: str) -> float:
    """A figure of each row, a line for each kind; returns how far up they reach."""
    looks = zip(SERIES * len(kinds), MARKERS * len(kinds), strict=False)
    return max(
        plot_kind(axes, of_kind, figure, name, color, marker)
        for (name, of_kind), (color, marker) in zip(kinds.items(), looks, strict=False)
    )


def plot_kind(axes: Any, rows: Sequence[AnyRow], figure: str, name: str, color: str, marker: str) -> float:
    """A line with the intervals as error bars; returns how far up it reaches."""
    ranks, values = [row.ranks for row in rows], [getattr(row, figure) for row in rows]
    intervals = [getattr(row, f"{figure}_interval") for row in rows]
    below = [
        max(0.0, value - each.low) if each else 0.0 for value, each in zip(values, intervals, strict=True)
    ]
    above = [
        max(0.0, each.high - value) if each else 0.0 for value, each in zip(values, intervals, strict=True)
    ]
    known = interval_name(row.confidence for row in rows)
    label = name or (f"measured, {known}" if any(intervals) else "measured")
    axes.errorbar(
        ranks, values, [below, above], fmt=f"{marker}-", capsize=3, elinewidth=1, color=color, label=label
    )
    if not name:
        # The numbers of several lines would cover each other.
        label_points(
            axes, ranks, [value - low for value, low in zip(values, below, strict=True)], values, "{:.2f}"
        )
    return max(value + high for value, high in zip(values, above, strict=True))


def plot_efficiency(kinds: Kinds, path: Path) -> None:
    """Efficiency over ranks, with the ideal 1."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((COLUMN_INCHES, 2.6))
        axes = figure.add_subplot()
        ranks = sorted({row.ranks for rows in kinds.values() for row in rows})
        axes.axhline(1, ls="--", color=BLACK, label="ideal", lw=1.5)
        highest = plot_measured(axes, kinds, "efficiency")
        axes.set(xlabel="ranks", ylabel="efficiency", title="Efficiency")
        rank_axis(axes, ranks)
        axes.set_ylim(0, max(1.0, highest) * 1.2)
        axes.legend(loc="lower left")
        save(figure, path)


def plot_time(rows: Sequence[Row], path: Path) -> None:
    """totm of each rank count as a stack of computing, communication, data and the rest."""
    parts = (*TIME_PARTS, ("other", "start and end", GREY, ""))
    kinds = [kind_of(row, rows) for row in rows]
    # Bars of kinds have names below them, which take room.
    wide = (max(COLUMN_INCHES, 0.45 * len(rows) + 1), 3.6) if any(kinds) else (COLUMN_INCHES, 3.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(wide)
        axes = figure.add_subplot()
        bottom = np.zeros(len(rows))
        for field, label, color, hatch in parts:
            seconds = np.array([getattr(row.split, field) for row in rows])
            axes.bar(
                range(len(rows)),
                seconds,
                0.55,
                bottom,
                color=color,
                label=label,
                hatch=hatch,
                ec="white",
                lw=0.3,
            )
            bottom += seconds
        for position, row in enumerate(rows):
            axes.annotate(
                f"{row.totm:.1f}" if any(kinds) else f"{row.totm:.1f} s",
                (position, bottom[position]),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
        axes.set(ylabel="seconds", xlabel="ranks", title="Time of training (totm)")
        axes.set_xticks(range(len(rows)), [str(row.ranks) for row in rows])
        name_groups(axes, kinds)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.set_ylim(0, float(bottom.max()) * 1.12)
        axes.grid(False, axis="x")
        # Below the axes: inside them it would cover a bar.
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
        save(figure, path)


def name_groups(axes: Any, names: Sequence[str]) -> None:
    """Write the name of each group of bars below the middle of it."""
    start = 0
    for name, group in itertools.groupby(names):
        count = len(list(group))
        if name:
            middle = start + (count - 1) / 2
            axes.annotate(
                name,
                (middle, 0),
                xytext=(0, -28),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if count < 2 else "center",
                rotation=30 if count < 2 else 0,
                va="top",
                fontsize=7,
                annotation_clip=False,
            )
        start += count


def plot_fits(measured: Sequence[tuple[int, float]], fits: Sequence[Fit], title: str, path: Path) -> None:
    """The seconds of every run, each behind its ranks, and the curve of each fitted model."""
    styles = {"amdahl": (VERMILION, "--"), "gustafson": (VERMILION, "--"), "usl": (GREEN, "-.")}
    with matplotlib.rc_context(STYLE):
        figure = Figure((COLUMN_INCHES, 3.0))
        axes = figure.add_subplot()
        for fit in fits:
            color, line = styles.get(fit.model, (BLUE, ":"))
            across, up = [at.ranks for at in fit.curve], [at.seconds for at in fit.curve]
            axes.plot(across, up, line, color=color, label=NAMES[fit.model])
        axes.plot(*zip(*measured, strict=True), "o", color=BLACK, mfc="none", ms=4, label="measured runs")
        axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="seconds", title=title)
        ranks = sorted({count for count, _ in measured})
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.set_xticks([], minor=True)
        number_axis(axes)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
        save(figure, path)


def point_name(point: Point, rows: Sequence[Row]) -> str:
    kind = kind_of(point, rows)
    return f"{f'{kind}, ' if kind else ''}{point.ranks} rank{'s' if point.ranks > 1 else ''}"


def plot_loss(points: Sequence[Point], rows: Sequence[Row], path: Path) -> None:
    """Training (solid) and validation (dashed) loss of each run, by epoch, by samples and by time."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((PAGE_INCHES, 3.1))
        panels = figure.subplots(1, 3, sharey=True)
        named = {point.run: point_name(point, rows) for point in points}
        colors = dict(zip(dict.fromkeys(named.values()), SERIES * len(points), strict=False))
        markers = dict(zip(colors, MARKERS * len(points), strict=False))
        for point in points:
            color, marker = colors[named[point.run]], markers[named[point.run]]
            for axes, across in zip(panels, progress_of(point), strict=True):
                training = [epoch.training_loss for epoch in point.curve]
                axes.plot(across, training, color=color, marker=marker, ms=3)
                held = [
                    (x, epoch.validation_loss)
                    for x, epoch in zip(across, point.curve, strict=True)
                    if epoch.validation_loss is not None
                ]
                if held:
                    axes.plot(*zip(*held, strict=True), "--", color=color)
        by_epoch, by_samples, by_time = panels
        by_epoch.set(xlabel="epoch", ylabel="loss", title="Loss by epoch")
        by_samples.set(xlabel="training samples seen", title="Loss by samples")
        by_time.set(xlabel="seconds of training", title="Loss by time")
        by_epoch.xaxis.get_major_locator().set_params(integer=True)
        by_epoch.set_ylim(bottom=0)
        for axes in panels:
            axes.set_xlim(left=0)
        by_samples.xaxis.set_major_locator(MaxNLocator(4))
        # Runs of a kind and number of ranks look alike: a line each would not fit.
        handles = [
            matplotlib.lines.Line2D([], [], color=color, marker=markers[name], ms=3, label=name)
            for name, color in colors.items()
        ]
        lines = (("training", "-"), ("validation", "--"))
        handles += [matplotlib.lines.Line2D([], [], color="#555555", ls=ls, label=name) for name, ls in lines]
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=7)
        save(figure, path)


def progress_of(point: Point) -> tuple[list[float], list[float], list[float]]:
    """Of a point with a curve, at the end of each epoch: epochs, training samples seen by all ranks, seconds
    since the start."""
    a_epoch = (point.samples or 0) / (point.epochs or 1)
    epochs = [float(epoch.epoch) for epoch in point.curve]
    return epochs, [a_epoch * epoch for epoch in epochs], [epoch.seconds for epoch in point.curve]


def plot_masks(images: Array, truths: Array, predictions: Array, names: Sequence[str], path: Path) -> None:
    """Slices with the contours of their true (solid) and predicted (dashed) masks; below, the largest part.

    Args:
        images: (n, C, H, W) float; one channel is drawn in grey, three in colour.
        truths, predictions: (n, H, W), not 0 inside the mask.
        names: of the samples.
    """
    count = len(images)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        shape = images.shape[2] / images.shape[3]
        figure = Figure((PAGE_INCHES, PAGE_INCHES / count * (shape + 1) + 0.55))
        panels = figure.subplots(2, count, squeeze=False, height_ratios=[shape, 1])
        for column in range(count):
            image, truth, prediction = images[column], truths[column] != 0, predictions[column] != 0
            shown = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]
            low, high = float(shown.min()), float(shown.max())
            shown = (shown - low) / max(high - low, 1e-6)
            for row in range(2):
                axes = panels[row, column]
                axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                draw_contour(axes, truth, SKY, "solid")
                draw_contour(axes, prediction, ORANGE, "dashed")
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_visible(False)
            panels[0, column].set_title(names[column], fontsize=6)
            top, bottom, left, right = window(largest_part(truth | prediction), *truth.shape)
            panels[1, column].set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
        lines = [
            matplotlib.lines.Line2D([], [], color=SKY, label="ground truth"),
            matplotlib.lines.Line2D([], [], color=ORANGE, ls="dashed", label="prediction"),
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=2, labelcolor="black")
        save(figure, path)


def largest_part(mask: Array) -> Array:
    """The connected part of a mask with the most pixels; an empty mask as it is."""
    from skimage.measure import label

    parts = label(mask)
    return parts == np.bincount(parts[mask]).argmax() if mask.any() else mask


def window(mask: Array, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a square around the mask, with a margin, inside the image."""
    if not mask.any():
        return 0, height, 0, width
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    side = min(max(int(np.ptp(rows)), int(np.ptp(columns))) + 1 + 12, height, width)
    top = int(np.clip((rows[0] + rows[-1] + 1 - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side) // 2, 0, width - side))
    return top, top + side, left, left + side


def draw_contour(axes: Any, mask: Array, color: str, style: str) -> None:
    """The mask's outline along pixel edges; nothing for an empty mask."""
    if mask.any():
        # Enlarged, the 0.5 level follows the pixels' edges instead of cutting corners; zeros around close it.
        factor = 8
        padded = np.pad(np.kron(mask, np.ones((factor, factor))), 1)
        height, width = padded.shape
        x = (np.arange(width) - 0.5) / factor - 0.5
        y = (np.arange(height) - 0.5) / factor - 0.5
        axes.contour(x, y, padded, levels=[0.5], colors=color, linestyles=style, linewidths=1.1)


def rank_axis(axes: Any, ranks: Sequence[int]) -> None:
    """Ticks at the ranks; at equal ratios where they are too many for equal distances."""
    if ranks[-1] >= WIDE * ranks[0]:
        axes.set_xscale("log")
        axes.set_xlim(ranks[0] / 1.25, ranks[-1] * 1.25)
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.set_xticks([], minor=True)
        return
    margin = max(0.2, 0.08 * (ranks[-1] - ranks[0]))
    axes.set_xlim(ranks[0] - margin, ranks[-1] + margin)
    axes.set_xticks(ranks)


def number_axis(axes: Any) -> None:
    """Plain numbers on a logarithmic axis upwards: powers of ten are too far apart for most studies."""
    low, high = axes.get_ylim()
    within_a_decade = high < 5 * low
    axes.yaxis.set_major_locator(MaxNLocator(5) if within_a_decade else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def label_points(
    axes: Any, across: Sequence[float], up: Sequence[float], values: Sequence[float], form: str
) -> None:
    """Write values below the places given."""
    for x, y, value in zip(across, up, values, strict=True):
        axes.annotate(
            form.format(value), (x, y), xytext=(0, -5), textcoords="offset points", ha="center", va="top"
        )


def draw(
    results: Results, folder: Path, masks: tuple[Array, Array, Array, list[str]] | None
) -> dict[str, Path]:
    """Draw every plot that the results allow into `folder`; returns their paths by name, in reading order."""
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Path] = {}
    if results.rows:
        plots |= {name: folder / f"{name}.png" for name in ("speed-up", "efficiency", "time")}
        plot_speed_up(kinds_of(results.rows), plots["speed-up"])
        plot_efficiency(kinds_of(results.rows), plots["efficiency"])
        plot_time(results.rows, plots["time"])
    fitted = [fit for fit in results.fits if fit.refused is None]
    if fitted:
        plots["fits"] = folder / "fits.png"
        measured = [(point.ranks, point.totm) for point in results.points if point.totm is not None]
        plot_fits(measured, fitted, "totm, measured and fitted", plots["fits"])
    curves = [point for point in results.points if point.curve]
    if curves:
        plots["loss"] = folder / "loss.png"
        plot_loss(curves, results.rows, plots["loss"])
    if masks is not None and len(masks[0]):
        plots["masks"] = folder / "masks.png"
        plot_masks(*masks, plots["masks"])
    return plots
