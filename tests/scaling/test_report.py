"""Reports of synthetic results: fits, intervals and caveats say what the results hold, and only that."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhhpc.scaling.energy import Rapl, consumed, energy_of
from dhhpc.scaling.reports.report import plain_significant, report
from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.gains import interval_name
from dhhpc.scaling.studies.results import Machine, Results, read_results, write_results
from tests.scaling.synthetic_trainer import SyntheticTrainer, points_of, results_of

COUNTS = [1, 2, 4, 8, 16]


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("study")
    write_results(folder, results_of(SyntheticTrainer(jitter=0.3, size=4e6), COUNTS, 3))
    report(folder)
    return folder, read_results(folder)


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def test_fits_stand_in_the_report_as_in_the_results(reported):
    folder, results = reported
    assert [(fit.model, fit.refused) for fit in results.fits] == [
        ("amdahl", None),
        ("usl", None),
        ("mechanistic", None),
    ]
    page = (folder / "report.html").read_text()
    known = set(numbers(json.loads((folder / "results.json").read_text())))
    figures = re.findall(r'<data value="([^"]+)">([^<]+)</data>', page)
    for exact, shown in figures:
        assert float(exact) in known
        digits = 15 if "e" in shown else len(shown.partition(".")[2])
        assert float(shown) == pytest.approx(float(exact), rel=1e-3, abs=0.5 * 10**-digits)
    drawn = {float(exact) for exact, _ in figures}
    for fit in results.fits:
        assert {fit.r_squared, fit.relative_rmse, fit.aicc} <= drawn
        for parameter in fit.parameters:
            assert {parameter.value, parameter.low, parameter.high} <= drawn
    for row in results.rows[1:]:
        assert {row.karp_flatt, row.speed_up_interval.low, row.efficiency_interval.high} <= drawn
    # The trainer communicates, which Amdahl's law knows nothing of.
    assert page.count("(least)") == 1
    assert min(results.fits, key=lambda fit: fit.aicc).model == "mechanistic"
    assert "not to be relied on whatever the intervals say: Amdahl" in page.replace("&#39;s law", "")
    assert "0.75</data> at most, where 0.95 is meant" in page
    assert "nothing counted it" in page


def test_curves_are_drawn_beside_what_was_measured(reported):
    folder, results = reported
    plots = {path.name for path in (folder / "plots").iterdir()}
    drawn = ("speed-up", "efficiency", "time", "fits")
    assert plots == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    with Image.open(folder / "plots" / "fits.png") as image:
        assert image.width >= 700
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
    # Okabe and Ito's vermilion, green and blue: a curve each.
    for color in ([0xD5, 0x5E, 0x00], [0x00, 0x9E, 0x73], [0x00, 0x72, 0xB2]):
        assert (seen == color).all(axis=1).sum() > 100
    markdown = (folder / "report.md").read_text()
    for fit in results.fits:
        for parameter in fit.parameters:
            assert f" {plain_significant(parameter.value)} " in markdown


def test_thin_results_are_refused_in_words(tmp_path):
    write_results(tmp_path, results_of(SyntheticTrainer(), [1, 2], 1))
    page = report(tmp_path).read_text()
    assert page.count("refused: ") == 3
    assert "needs 3 different rank counts; measured: 2" in page
    assert not (tmp_path / "plots" / "fits.png").exists()


def test_a_classification_is_told_by_its_accuracy(tmp_path):
    results = results_of(SyntheticTrainer(), [1, 2], 1)
    for row in results.rows:
        row.test = {"accuracy": 0.875, "dice": 0.75, "iou": 0.625, "f1": 0.75, "auc": 0.9375}
    for task, told, heads in (
        ("classification", "the accuracy is 0.875 (1 rank), 0.875 (2 ranks)", "accuracy | F1 | AUC |"),
        (
            "segmentation",
            "masks reach a Dice overlap of 0.750 (1 rank), 0.750 (2 ranks)",
            "Dice | IoU | F1 |",
        ),
    ):
        write_results(tmp_path, results.model_copy(update={"task": task}))
        report(tmp_path)
        markdown = (tmp_path / "report.md").read_text()
        assert told in markdown
        assert f"| ranks | {heads}" in markdown
        assert ("mask" in markdown) == (task == "segmentation")


def test_the_mechanism_is_refused_where_it_does_not_hold():
    points = points_of(SyntheticTrainer(samples=512), COUNTS, 1)

    def reason(**parallel):
        return fit_points(points, "strong", {"parallel": {"method": "fixed"} | parallel})[-1].refused

    assert reason() is None
    assert "parallel.method spatial" in reason(method="spatial")
    assert "compressed sums" in reason(compression={"method": "top-k"})
    points[0].threads = 2
    assert "1 and 2 threads" in reason()


def test_runs_that_share_cores_count_for_no_model(tmp_path):
    """A time on 16 ranks of 8 cores that any law would be bent by."""
    results = results_of(SyntheticTrainer(), [1, 2, 4, 8, 16], 3)
    for point in results.points:
        point.machine = Machine(hosts=["node"], cpu="any", cores=8)
    own = [point for point in results.points if point.ranks <= 8]
    for point in results.points[len(own) :]:
        point.totm = 99.0

    def fits(points):
        return fit_points(points, "strong", results.experiment)

    assert fits(results.points) == fits(own)
    assert [fit.observations for fit in fits(own)] == [12, 12, 12]
    (amdahl, *_), thin = fits(own), fits([point for point in results.points if point.ranks in (1, 2, 16)])
    assert amdahl.refused is None
    assert thin[0].refused == (
        "Amdahl's law has 2 parameters and needs 3 different rank counts; measured: 2; runs on 16 ranks, "
        "which shared cores, count for none"
    )
    all_share = fits(results.points[len(own) :])
    assert ["measured: 0; runs on 16 ranks" in fit.refused for fit in all_share[:2]] == [True, True]
    assert all_share[2].refused

    results.fits = fits(results.points)
    write_results(tmp_path, results)
    report(tmp_path)
    told = (tmp_path / "report.md").read_text()
    assert "Fitted curves end at 8 ranks, the most that were measured with cores of their own" in told
    # Of three runs the fastest and the slowest have the true median between them three times of four.
    assert "| totm (s), 75 % interval |" in told
    assert interval_name([None, *[1 - 2 / 2**6] * 2]) == "95 % interval"


def test_weak_studies_are_fitted_by_laws_of_their_own():
    points = points_of(SyntheticTrainer(samples=512), COUNTS, 1)
    fits = fit_points(points, "weak", {"parallel": {"method": "fixed"}})
    assert [fit.model for fit in fits] == ["gustafson", "usl", "mechanistic"]


def test_four_digits_of_any_number():
    assert [plain_significant(value) for value in (0, 0.0020014, 1.25e-9, 45.843, 12345.6, -2.5)] == [
        "0", "0.002001", "1.250e-09", "45.84", "12346", "-2.500",
    ]  # fmt: skip


def counter(folder: Path, name: str, microjoules: int, most: int = 1000_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_energy_is_counted_over_the_end_of_the_counters(tmp_path):
    package = counter(tmp_path / "power" / "intel-rapl:0", "package-0", 900_000_000)
    memory = counter(tmp_path / "power" / "intel-rapl:0:1", "dram", 0)
    # Part of the package, and part of everything: counted once already.
    core = counter(tmp_path / "power" / "intel-rapl:0:0", "core", 0)
    counter(tmp_path / "power" / "intel-rapl:1", "psys", 0)
    meter = Rapl(tmp_path / "power")
    core.write_text("5000000\n")
    package.write_text("100000000\n")
    memory.write_text("30000000\n")
    meter.sample()
    assert meter.joules == pytest.approx(200 + 30)
    package.write_text("150000000\n")
    meter.write(tmp_path, [socket.gethostname()])
    assert energy_of(tmp_path, {}) == (pytest.approx(280), "RAPL, the whole machine")
    meter.write(tmp_path, [socket.gethostname(), "another"])
    assert energy_of(tmp_path, {}) == (
        None,
        "not counted: RAPL of this machine does not tell that of another",
    )


def test_unknown_energy_says_why(tmp_path):
    Rapl(tmp_path / "nowhere").write(tmp_path, [])
    assert energy_of(tmp_path, {}) == (None, f"not counted: there is no {tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "no RAPL counter" in Rapl(tmp_path / "empty").missing
    assert energy_of(tmp_path / "empty", {})[0] is None
    assert "its last job, 7, alone" in energy_of(tmp_path / "empty", {"slurm_job_id": "7", "resumed": 1})[1]
    assert consumed("123456\n", "7") == (123456, "SLURM, all of job 7")
    assert consumed("0\n", "7") == (None, "SLURM gathered no energy of job 7 (AcctGatherEnergyType)")
    assert consumed("\n", "7")[0] is None
