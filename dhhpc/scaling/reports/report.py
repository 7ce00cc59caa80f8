"""The report of a study: one self-contained HTML file, and Markdown beside its PNGs."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from dhhpc.files import write_text
from dhhpc.scaling.reports.fit_wording import MEANINGS, NAMES, PARAMETERS, fit_caveats, preferred
from dhhpc.scaling.reports.plots import draw
from dhhpc.scaling.reports.wording import caveats, findings
from dhhpc.scaling.studies.examples import read_examples
from dhhpc.scaling.studies.kinds import kind_of
from dhhpc.scaling.studies.results import Results, read_results

REPORT_NAME = "report.html"
PLOTS_FOLDER = "plots"
CAPTIONS = {
    "speed-up": "Speed-up over ranks. The dashed line is the ideal: n ranks, n times as fast.",
    "efficiency": "Efficiency: speed-up divided by ranks. At 1 no rank's time is lost.",
    "fits": "Time of training of every run, and the models fitted to them. Both axes are logarithmic.",
    "time": "Where the time of training (totm) went, as means over the ranks.",
    "loss": "Loss of each run by epoch and by time: training solid, validation dashed.",
    "masks": "Test images with the true mask (solid) and the predicted (dashed); below, the largest part.",
}
METRICS = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1"}


def figure(value: float, digits: int = 0) -> markupsafe.Markup:
    """A number for HTML: rounded to read, with the exact value of results.json in the element."""
    return markupsafe.Markup('<data value="{}">{}</data>').format(repr(value), f"{value:.{digits}f}")


def plain(value: float, digits: int = 0) -> str:
    """The same number for Markdown."""
    return f"{value:.{digits}f}"


def significant(value: float) -> markupsafe.Markup:
    """A number for HTML with four significant digits, whatever its size."""
    return markupsafe.Markup('<data value="{}">{}</data>').format(repr(value), plain_significant(value))


def plain_significant(value: float) -> str:
    """The same for Markdown."""
    if value and abs(value) < 1e-3:
        return f"{value:.3e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def report(folder: Path | str) -> Path:
    """Draw the plots and write `report.html` and `report.md` from `results.json` in a study's folder.

    Returns:
        The path of the HTML report.

    Raises:
        DhhpcError: the folder holds no results, or cannot be written.
    """
    folder = Path(folder)
    results = read_results(folder)
    plots = draw(results, folder / PLOTS_FOLDER, read_examples(folder) if results.masks else None)
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in plots.items()}
    names = {name: f"{PLOTS_FOLDER}/{path.name}" for name, path in plots.items()}
    write_text(folder / "report.md", render("report.md.j2", results, names))
    write_text(folder / REPORT_NAME, render("report.html.j2", results, images))
    return folder / REPORT_NAME


def render(template: str, results: Results, images: dict[str, str]) -> str:
    """The text of a report.

    Args:
        images: of each plot, what the template embeds: base64 for HTML, a relative path for Markdown.
    """
    html = template.endswith(".html.j2")
    finished = [point for point in results.points if point.status == "finished"]
    of_kinds = any(kind_of(row, results.rows) for row in results.rows)
    return template_named(template).render(
        results=results,
        study=results.study,
        summary=results.summary,
        rows=results.rows,
        preprocessing=results.preprocessing,
        finished=finished,
        failed=[point for point in results.points if point.status == "failed"],
        metrics={key: name for key, name in METRICS.items() if any(key in row.test for row in results.rows)},
        versions=finished[0].versions if finished else {},
        repeat=results.repeat,
        machine=finished[0].machine if finished else None,
        images=images,
        captions=CAPTIONS,
        findings=findings(results, markupsafe.Markup if html else str, figure if html else plain),
        caveats=caveats(results, markupsafe.Markup if html else str, figure if html else plain),
        fit_caveats=fit_caveats(results, markupsafe.Markup if html else str, figure if html else plain),
        fit_names=NAMES,
        fit_meanings=MEANINGS,
        parameter_names=PARAMETERS,
        preferred=preferred(results),
        kind_head=kind_cell("training", html, "th") if of_kinds else "",
        kind_rule="| :--- " if of_kinds else "",
        kind_cell=lambda row: kind_cell(kind_of(row, results.rows), html) if of_kinds else "",
        with_intervals=any(row.totm_interval for row in results.rows),
        energy_unknown=next((point.energy for point in finished if point.joules is None), None),
        energy_known=next((point.energy for point in finished if point.joules is not None), None),
        setting=setting(results.experiment)
        | {f"variant {name}": in_line(changes) for name, changes in results.study.variants.items()}
        | {"shards (SHA-256)": results.shards},
    )


def kind_cell(text: str, html: bool, tag: str = "td") -> str:
    """What stands before the ranks of a row, where a study has several kinds of training."""
    if not html:
        return f"| {text} "
    return markupsafe.Markup("<{0} class={1}text{1}>{2}</{0}>").format(tag, markupsafe.Markup('"'), text)


def template_named(name: str) -> jinja2.Template:
    """A template of this room, for HTML or Markdown by its name, with the filter `figure`."""
    html = name.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dhhpc.scaling.reports", "."),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = figure if html else plain
    environment.filters["significant"] = significant if html else plain_significant
    return environment.get_template(name)


def setting(experiment: dict[str, Any]) -> dict[str, str]:
    """What of the experiment shapes its times, in one line each."""
    keys = ("network", "loss", "optimizer", "batch_size", "epochs", "parallel", "seed")
    return {key.replace("_", " "): in_line(experiment[key]) for key in keys}


def in_line(value: Any) -> str:
    """A value as `key value, key value`."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_line(part)}" for key, part in value.items())
    return str(value)
