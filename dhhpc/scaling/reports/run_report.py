"""The report of one run: what was trained, how it learned, how good it is, and how to repeat it."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

from dhhpc.data.targets import Task
from dhhpc.errors import DhhpcError
from dhhpc.files import write_text
from dhhpc.scaling.reports.plots import plot_masks
from dhhpc.scaling.reports.report import METRICS, REPORT_NAME, setting, template_named
from dhhpc.scaling.reports.run_plots import PARTS, plot_epochs, plot_learning
from dhhpc.scaling.studies.examples import read_examples, save_examples
from dhhpc.training import read_run
from dhhpc.training.network import CreateNetwork
from dhhpc.training.run_record import RunRecord

CAPTIONS = {
    "learning": "Loss, and the metric by which the model was selected, after each epoch.",
    "epochs": "Where the seconds of each epoch went, as means over the ranks.",
    "masks": "Test images with the true mask (solid) and the predicted (dashed); below, the largest part.",
}
MORE_METRICS: dict[Task, dict[str, str]] = {
    "segmentation": METRICS["segmentation"] | {"auc": "AUC", "image_dice": "Dice, mean over images"},
    "classification": METRICS["classification"],
}


def run_report(folder: Path | str, create: CreateNetwork) -> Path:
    """Write `report.html` into a run folder, from its record, its metrics and its shards.

    The masks of a few test images are predicted for it where the run's shards are still there.

    Args:
        create: makes the network by its name (`dhhpc.zoo.create`).

    Returns:
        The path of the report.

    Raises:
        DhhpcError: the folder holds no run, none with a finished epoch, or cannot be written.
    """
    record = read_run(folder)
    history = record.content.get("history", [])
    if not history:
        raise DhhpcError(f"{record.folder}: no epoch is finished yet; report the run when it has trained")
    task = task_of(record)
    plots = draw(record, create)
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in plots.items()}
    splits = record.metrics()
    classes = splits.get("test", {}).get("classes", {})
    page = template_named("run_report.html.j2").render(
        run=record.content,
        history=history,
        splits=splits,
        task=task,
        metrics={
            key: name
            for key, name in MORE_METRICS[task].items()
            if any(key in values for values in splits.values())
        },
        classes=classes,
        class_metrics={
            key: name
            for key, name in MORE_METRICS[task].items()
            if any(key in values for values in classes.values())
        },
        parts=times(history),
        caveats=caveats(record),
        setting=setting(record.content["experiment"]),
        command=shlex.join(record.content["command"]),
        images=images,
        captions=CAPTIONS,
    )
    write_text(record.folder / REPORT_NAME, page)
    return record.folder / REPORT_NAME


def draw(record: RunRecord, create: CreateNetwork) -> dict[str, Path]:
    """Every plot that the run allows, by name, in reading order."""
    content, folder = record.content, record.folder / "plots"
    history = content["history"]
    folder.mkdir(exist_ok=True)
    plots = {name: folder / f"{name}.png" for name in ("learning", "epochs")}
    selected = content.get("selected_epoch")
    plot_learning(history, monitored(content), None if selected is None else selected + 1, plots["learning"])
    plot_epochs(history, plots["epochs"])
    if "test" in record.metrics() and (record.folder / "model.npz").is_file():
        save_examples(record.folder, folder, create)
        masks = read_examples(folder)
        if masks is not None:
            plots["masks"] = folder / "masks.png"
            plot_masks(*masks, plots["masks"])
    return plots


def monitored(content: dict[str, Any]) -> str | None:
    """The metric, beside the loss, by which the model is selected."""
    validation = content["history"][-1].get("validation", {})
    chosen = content["experiment"]["checkpoint"]["monitor"]
    default = "dice" if "image_dice" in validation else "accuracy"
    return next((name for name in (chosen, default) if name in validation and name != "loss"), None)


def task_of(record: RunRecord) -> Task:
    """What the run was for; its metrics tell, since the shards may be gone."""
    measured = [*record.metrics().values(), record.content["history"][-1].get("validation", {})]
    classified = any("accuracy" in values and "image_dice" not in values for values in measured)
    return "classification" if classified else "segmentation"


def times(history: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of all epochs by what the ranks did: means over the ranks."""
    return {
        words: sum(fmean(rank.get(name, 0.0) for rank in epoch["ranks"]) for epoch in history)
        for name, words, _, _ in PARTS
    }


def caveats(record: RunRecord) -> list[str]:
    """What a reader must know before using the figures."""
    content, found = record.content, []
    if content["status"] != "finished":
        found.append(f"The run is {content['status']}: its figures are those so far.")
    if content["resumed"]:
        often = "once" if content["resumed"] == 1 else f"{content['resumed']} times"
        found.append(f"The run was resumed {often}; totm sums its parts and leaves out the time between.")
    if "test" not in record.metrics():
        found.append(
            "The run was not evaluated on the test split; `dhhpc evaluate RUN --split test` does so."
        )
    elif content["samples"].get("validation"):
        found.append("The epoch was selected by the validation split, and the test split had no part in it.")
    if not content["samples"].get("validation"):
        found.append("There is no validation split: the last epoch was taken, and nothing tells overfitting.")
    found.append("One run with one seed: `dhhpc train --seeds 5` tells how much of the result is luck.")
    return found
