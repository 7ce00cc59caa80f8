"""`dhhpc scale run` of a study that measures preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dhhpc.scaling.studies.preprocessing_results import PreprocessingResults


def measure_preprocessing(study: Path, output: Path | None, gather: bool, draw: bool, as_json: bool) -> None:
    """Preprocess on each rank count of a study, and write the report if it is to be drawn.

    Raises:
        DhhpcError: the study is wrong, or a point has failed.
    """
    from contextlib import nullcontext

    from dhhpc.cli.study_progress import study_progress
    from dhhpc.locks import sole_use
    from dhhpc.scaling.reports.preprocessing_report import report_preprocessing
    from dhhpc.scaling.studies.preprocessing_runner import run_preprocessing_study
    from dhhpc.scaling.studies.preprocessing_study import read_preprocessing_study
    from dhhpc.scaling.studies.runner import check_points

    folder = output or Path(f"scaling-{read_preprocessing_study(study)[0].name}")
    with study_progress(unit="shard") as watcher, nullcontext() if gather else sole_use(folder, watcher.say):
        results = run_preprocessing_study(study, folder, watcher, gather)
    page = report_preprocessing(folder) if draw else None
    print(results.model_dump_json(indent=2) if as_json else as_text(results))
    if page is not None and not as_json:
        print(f"report: {page}")
    check_points(results)


def as_text(results: PreprocessingResults) -> str:
    """The KPIs of each rank count, the fitted models, and toppi on the fastest."""
    from dhhpc.cli.scale import fit_line

    lines = [
        f"{'ranks':>5}{'T2 (s)':>10}{'speed-up':>10}{'at most':>9}{'efficiency':>12}{'samples/s':>11}"
        f"{'core-s':>9}"
    ]
    for row in results.rows:
        lines.append(
            f"{row.ranks:5d}{row.seconds:10.2f}{row.speed_up:10.2f}{row.most_speed_up:9.2f}"
            f"{row.efficiency:12.2f}{row.samples_per_second:11.1f}{row.core_seconds:9.2f}"
        )
    lines += [fit_line(fit) for fit in results.fits]
    toppi = results.preprocessing
    if toppi is not None:
        design = toppi.design_seconds
        lines.append(
            f"toppi: T1 (design) {'not entered' if design is None else f'{design:.0f} s'}, "
            f"T2 (run on {toppi.ranks} rank{'s' if toppi.ranks > 1 else ''}) {toppi.run_seconds:.1f} s"
            + ("" if toppi.toppi is None else f", T1 + T2 {toppi.toppi:.1f} s")
        )
    return "\n".join(lines)
