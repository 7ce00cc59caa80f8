"""The report of a study: one self-contained HTML file, Markdown beside its plots, and tables as CSV."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from dhhpc.data.targets import Task
from dhhpc.files import write_text
from dhhpc.mpi import core_list
from dhhpc.scaling.reports.csv_tables import TABLES_FOLDER, write_tables
from dhhpc.scaling.reports.fit_wording import MEANINGS, NAMES, PARAMETERS, fit_caveats, preferred
from dhhpc.scaling.reports.forecast_plots import draw_forecast, name_of
from dhhpc.scaling.reports.forecast_wording import (
    NOT_MODELLED,
    forecast_caveats,
    forecast_findings,
    machine_values,
)
from dhhpc.scaling.reports.plots import draw
from dhhpc.scaling.reports.wording import caveats, findings
from dhhpc.scaling.studies.examples import read_examples
from dhhpc.scaling.studies.forecast_document import StudyForecast
from dhhpc.scaling.studies.gains import interval_name
from dhhpc.scaling.studies.kinds import kind_of
from dhhpc.scaling.studies.results import Point, Results, read_results

REPORT_NAME = "report.html"
PLOTS_FOLDER = "plots"
CAPTIONS = {
    "speed-up": "Speed-up over ranks. The dashed line is the ideal: n ranks, n times as fast.",
    "efficiency": "Efficiency: speed-up divided by ranks. At 1 no rank's time is lost.",
    "fits": "Time of training of every run, and the models fitted to them. Both axes are logarithmic.",
    "time": "Where the time of training (totm) went, as means over the ranks.",
    "loss": "Loss of each run by epoch, by training samples seen by all ranks, and by time: training solid, "
    "validation dashed.",
    "masks": "Test images with the true mask (solid) and the predicted (dashed); below, the largest part.",
    "forecast-efficiency": "Forecast, not measured: efficiency over ranks. The dash-dotted line marks the "
    "most ranks that were measured.",
    "forecast-speed-up": "Forecast, not measured: speed-up over ranks, against one rank of the same machine.",
    "forecast-time": "Forecast, not measured: where the time of an epoch would go, as means over the ranks.",
}
METRICS: dict[Task, dict[str, str]] = {
    "segmentation": {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1"},
    "classification": {
        "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC",
    },
}  # fmt: skip


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


def short(value: float) -> markupsafe.Markup:
    """A number for HTML as a description has it, in six digits at most."""
    return markupsafe.Markup('<data value="{}">{}</data>').format(repr(value), plain_short(value))


def plain_short(value: float) -> str:
    """The same for Markdown."""
    return f"{value:g}"


def report(folder: Path | str) -> Path:
    """Draw the plots and write `report.html`, `report.md` and tables from `results.json` in a study's folder.

    Returns:
        The path of the HTML report.

    Raises:
        DhhpcError: the folder holds no results, or cannot be written.
    """
    folder = Path(folder)
    results = read_results(folder)
    plots = draw(results, folder / PLOTS_FOLDER, read_examples(folder) if results.masks else None)
    plots |= draw_forecast(results.forecast, folder / PLOTS_FOLDER) if results.forecast else {}
    for name in CAPTIONS.keys() - plots.keys():
        # Of earlier results, which had a forecast, or other fits.
        for kind in ("png", "svg"):
            (folder / PLOTS_FOLDER / f"{name}.{kind}").unlink(missing_ok=True)
    write_tables(results, folder / TABLES_FOLDER)
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
    modelled = forecast_part(results.forecast, html) if results.forecast else {}
    return template_named(template).render(
        forecast=results.forecast,
        forecast_images={name: image for name, image in images.items() if name.startswith("forecast-")},
        **modelled,
        results=results,
        study=results.study,
        summary=results.summary,
        rows=results.rows,
        preprocessing=results.preprocessing,
        finished=finished,
        failed=[point for point in results.points if point.status == "failed"],
        metrics={
            key: name
            for key, name in METRICS[results.task].items()
            if any(key in row.test for row in results.rows)
        },
        versions=finished[0].versions if finished else {},
        repeat=results.repeat,
        machine=finished[0].machine if finished else None,
        images={name: image for name, image in images.items() if not name.startswith("forecast-")},
        captions=CAPTIONS,
        findings=findings(results, markupsafe.Markup if html else str, figure if html else plain),
        caveats=caveats(results, markupsafe.Markup if html else str, figure if html else plain),
        fit_caveats=fit_caveats(results, markupsafe.Markup if html else str, figure if html else plain),
        fit_names=NAMES,
        fit_meanings=MEANINGS,
        parameter_names=PARAMETERS,
        preferred=preferred(results.fits),
        kind_head=kind_cell("training", html, "th") if of_kinds else "",
        kind_rule="| :--- " if of_kinds else "",
        kind_cell=lambda row: kind_cell(kind_of(row, results.rows), html) if of_kinds else "",
        circumstances=lambda point: circumstances(point, html),
        with_intervals=any(row.totm_interval for row in results.rows),
        interval_name=interval_name(row.confidence for row in results.rows),
        energy_unknown=next((point.energy for point in finished if point.joules is None), None),
        energy_known=next((point.energy for point in finished if point.joules is not None), None),
        setting=setting(results.experiment)
        | {f"variant {name}": in_line(changes) for name, changes in results.study.variants.items()}
        | {"shards (SHA-256)": results.shards},
    )


def circumstances(point: Point, html: bool) -> str:
    """The load of each host before a run, and the cores of each rank, as far as its record tells them."""
    text, number = (markupsafe.Markup, figure) if html else (str, plain)
    machine = point.machine
    if machine is None:
        return ""
    told = ""
    if machine.load:
        loads = (text("{} on {}").format(number(load[0], 2), host) for host, load in machine.load.items())
        told += text("; load before it {}").format(text(", ").join(loads))
    if machine.binding:
        # Cores are names here, not figures.
        told += text("; cores of its ranks {}").format(" | ".join(map(core_list, machine.binding)))
    return told


def forecast_part(forecast: StudyForecast, html: bool) -> dict[str, Any]:
    """What the part about a forecast shows beside its rows."""
    text = markupsafe.Markup if html else str
    digits = (figure, significant) if html else (plain, plain_significant)
    lines = (line for variant in forecast.variants for line in variant.assumptions)
    return {
        "forecast_findings": forecast_findings(forecast, text, *digits),
        "forecast_caveats": forecast_caveats(forecast, text, *digits),
        "forecast_assumptions": dict.fromkeys(lines),
        "forecast_name": name_of,
        "priced": forecast.machine["price_per_core_hour"] is not None,
        "not_modelled": NOT_MODELLED,
        "machine_values": machine_values(forecast.machine),
    }


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
    environment.filters["short"] = short if html else plain_short
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
