"""The report of one run: its figures are those of the record, and it says what a reader must know."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhhpc import zoo
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.scaling.reports.run_report import run_report
from dhhpc.scaling.studies.examples import evaluate_run
from dhhpc.training import Experiment, RunRecord, train
from tests import synthetic


@pytest.fixture(scope="module")
def run(discs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    document = synthetic.experiment_document(discs, folder, epochs=3)
    train(Experiment.model_validate(document), World(), zoo.create)
    evaluate_run(folder, zoo.create)
    return folder


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def test_every_figure_is_one_of_the_record_or_the_sum_that_it_says(run):
    page = run_report(run, zoo.create).read_text()
    content, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    parts = ("compute", "communication", "wait", "data", "validation")
    sums = [sum(epoch["ranks"][0][part] for epoch in content["history"]) for part in parts]
    known = np.array([*numbers(content), *numbers(metrics), *sums, len(content["history"])])
    figures = re.findall(r'<data value="([^"]+)">([^<]+)</data>', page)
    assert len(figures) > 20
    for exact, shown in figures:
        assert np.isclose(known, float(exact), rtol=1e-12).any(), exact
        half = Decimal(5).scaleb(-len(shown.partition(".")[2]) - 1)
        assert abs(Decimal(shown) - Decimal(exact)) <= half
    assert f'<data value="{metrics["test"]["dice"]!r}">' in page
    assert "the test split had no part in it" in page
    assert content["commit"] is None or content["commit"] in page
    plots = sorted(path.name for path in (run / "plots").glob("*.png"))
    assert plots == ["epochs.png", "learning.png", "masks.png"]
    for name in plots:
        drawn = np.asarray(Image.open(run / "plots" / name).convert("L"))
        assert 0.01 < (drawn < 250).mean() < 0.99


def test_a_run_that_is_not_over_says_so(run, tmp_path):
    content = json.loads((run / "run.json").read_text())
    unfinished = RunRecord(tmp_path / "run")
    unfinished.update(
        **content | {"status": "stopped", "resumed": 2, "finished": None, "selected_epoch": None}
    )
    page = run_report(unfinished.folder, zoo.create).read_text()
    assert "The run is stopped: its figures are those so far." in page
    assert "was resumed 2 times" in page
    assert "was not evaluated on the test split" in page
    assert "not yet" in page


def test_a_run_without_an_epoch_is_refused(run, tmp_path):
    content = json.loads((run / "run.json").read_text())
    empty = RunRecord(tmp_path / "run")
    empty.update(**content | {"history": []})
    with pytest.raises(DhhpcError, match="no epoch is finished yet"):
        run_report(empty.folder, zoo.create)
