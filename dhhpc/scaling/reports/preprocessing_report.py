"""The report of a study of preprocessing: one self-contained HTML file, and Markdown beside its PNGs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import markupsafe

from dhhpc.files import write_text
from dhhpc.scaling.reports.fit_wording import MEANINGS, NAMES, PARAMETERS, caveats_of_fits, preferred
from dhhpc.scaling.reports.plots import plot_efficiency, plot_fits, plot_speed_up
from dhhpc.scaling.reports.preprocessing_wording import caveats_of_preprocessing, findings_of_preprocessing
from dhhpc.scaling.reports.report import (
    PLOTS_FOLDER,
    REPORT_NAME,
    figure,
    in_line,
    plain,
    report,
    template_named,
)
from dhhpc.scaling.studies.gains import interval_name
from dhhpc.scaling.studies.preprocessing_results import (
    PreprocessedPoint,
    PreprocessingResults,
    holds_preprocessing,
    read_preprocessing_results,
)

CAPTIONS = {
    "speed-up": "Speed-up over ranks. The dashed line is the ideal: n ranks, n times as fast.",
    "efficiency": "Efficiency: speed-up divided by ranks. At 1 no rank's time is lost.",
    "time": "Time of preprocessing (T2) of every run, and the models fitted to the runs, if any. Both axes "
    "are logarithmic.",
}
UNIT = {"seconds_on_one_rank": "T2 on one rank"}


def report_study(folder: Path | str) -> Path:
    """The report of a study of either kind, by what its results measure; see `report.report`."""
    return report_preprocessing(folder) if holds_preprocessing(folder) else report(folder)


def report_preprocessing(folder: Path | str) -> Path:
    """Draw the plots and write `report.html` and `report.md` from `results.json` in a study's folder.

    Returns:
        The path of the HTML report.

    Raises:
        DhhpcError: the folder holds no results of preprocessing, or cannot be written.
    """
    folder = Path(folder)
    results = read_preprocessing_results(folder)
    plots = draw_preprocessing(results, folder / PLOTS_FOLDER)
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in plots.items()}
    names = {name: f"{PLOTS_FOLDER}/{path.name}" for name, path in plots.items()}
    write_text(folder / "report.md", render_preprocessing("preprocessing_report.md.j2", results, names))
    write_text(folder / REPORT_NAME, render_preprocessing("preprocessing_report.html.j2", results, images))
    return folder / REPORT_NAME


def draw_preprocessing(results: PreprocessingResults, folder: Path) -> dict[str, Path]:
    """Draw the plots into `folder`; returns their paths by name. None before a point has finished."""
    if not results.rows:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    plots = {name: folder / f"{name}.png" for name in CAPTIONS}
    plot_speed_up({"": results.rows}, plots["speed-up"])
    plot_efficiency({"": results.rows}, plots["efficiency"])
    fitted = [fit for fit in results.fits if fit.refused is None]
    title = "T2, measured and fitted" if fitted else "T2, measured"
    measured = [(point.ranks, seconds) for point, seconds in timed(results)]
    plot_fits(measured, fitted, title, plots["time"])
    return plots


def timed(results: PreprocessingResults) -> list[tuple[PreprocessedPoint, float]]:
    """Every finished run and its seconds."""
    return [(point, point.seconds) for point in results.points if point.seconds is not None]


def render_preprocessing(template: str, results: PreprocessingResults, images: dict[str, str]) -> str:
    """The text of a report.

    Args:
        images: of each plot, what the template embeds: base64 for HTML, a relative path for Markdown.
    """
    html = template.endswith(".html.j2")
    words: Any = (markupsafe.Markup, figure) if html else (str, plain)
    finished = [point for point in results.points if point.status == "finished"]
    repeats = results.study.repeats
    return template_named(template).render(
        results=results,
        study=results.study,
        summary=results.summary,
        rows=results.rows,
        preprocessing=results.preprocessing,
        finished=finished,
        failed=[point for point in results.points if point.status == "failed"],
        versions=finished[0].versions if finished else {},
        machine=finished[0].machine if finished else None,
        images=images,
        captions=CAPTIONS,
        findings=findings_of_preprocessing(results, *words),
        caveats=caveats_of_preprocessing(results, *words),
        fit_caveats=caveats_of_fits(results.fits, timed(results), results.rows, repeats, *words),
        fit_names=NAMES,
        fit_meanings=MEANINGS,
        parameter_names=PARAMETERS | UNIT,
        preferred=preferred(results.fits),
        with_intervals=any(row.seconds_interval for row in results.rows),
        interval_name=interval_name(row.confidence for row in results.rows),
        energy_unknown=next((point.energy for point in finished if point.joules is None), None),
        energy_known=next((point.energy for point in finished if point.joules is not None), None),
        setting=setting(results),
    )


def setting(results: PreprocessingResults) -> dict[str, str]:
    """What the pipeline's document holds, in one line each, and what came of it."""
    steps = []
    for step in results.settings["pipeline"]:
        options = {key: value for key, value in step.items() if key != "name"}
        steps.append(step["name"] + (f" ({in_line(options)})" if options else ""))
    others = {key: value for key, value in results.settings.items() if key not in ("pipeline", "secret")}
    return (
        {key.replace("_", " "): in_line(value) for key, value in others.items() if value is not None}
        | {"steps": ", ".join(steps) or "none"}
        | {"shards (SHA-256)": results.shards or "none"}
    )
