"""`dhhpc scale`: measure how training or preprocessing scales over ranks, and report it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhhpc.cli.allocation import allocate
from dhhpc.cli.probe import probe
from dhhpc.cli.rehearsal import rehearse
from dhhpc.cli.simulation import simulate
from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.scaling.fits.fitted import Fit
    from dhhpc.scaling.studies.results import Results


def register(app: typer.Typer) -> None:
    scale = typer.Typer(no_args_is_help=True, help="Measure, report and forecast scaling, and choose ranks.")
    scale.command("run")(run)
    scale.command("report")(write_report)
    scale.command("allocate")(allocate)
    scale.command("simulate")(simulate)
    scale.command("probe")(probe)
    scale.command("rehearse")(rehearse)
    app.add_typer(scale, name="scale")


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yml", help="What on how many ranks.")],
    output: Annotated[
        Path | None, typer.Option(help="The folder of the results, by default scaling-NAME.")
    ] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="The experiment file, instead of the one the study names.")
    ] = None,
    gather: Annotated[
        bool, typer.Option("--gather", help="Train nothing: report the points that are finished.")
    ] = False,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            "--leave-out", metavar="POINT", help="Not this point, by its run folder's name without -repeat-N."
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Runs of each point, instead of the study's `repeats`.")
    ] = None,
    draw: Annotated[
        bool, typer.Option("--report/--no-report", help="Draw the report, or leave results.json alone.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Train an experiment on each rank count of a study, evaluate it, and write the scaling report.

    Every point is a `dhhpc train` of its own; of a study that names a pipeline as `preprocessing`, a `dhhpc
    preprocess`, whose shards are deleted once they are counted. Started again after a failure or a kill, the
    study keeps the points that are finished.

    Example: dhhpc scale run study.yml --output scaling
    """
    from dhhpc.scaling.studies.study import measures_preprocessing

    if measures_preprocessing(study):
        from dhhpc.cli.preprocessing_study import measure_preprocessing

        for option, value in (("--experiment", experiment), ("--repeats", repeats)):
            if value is not None:
                raise DhhpcError(f"{option} {value}: {study} measures preprocessing; drop {option}")
        measure_preprocessing(study, output, gather, draw, as_json)
        return
    from contextlib import nullcontext

    from dhhpc import zoo
    from dhhpc.cli.study_progress import study_progress
    from dhhpc.locks import sole_use
    from dhhpc.scaling.reports.report import report
    from dhhpc.scaling.studies.runner import check_points, run_study
    from dhhpc.scaling.studies.study import read_study

    folder = output or Path(f"scaling-{read_study(study, experiment)[0].name}")
    with study_progress() as watcher, nullcontext() if gather else sole_use(folder, watcher.say):
        results = run_study(study, folder, zoo.create, experiment, watcher, gather, leave_out or (), repeats)
    page = report(folder) if draw else None
    print(results.model_dump_json(indent=2) if as_json else as_text(results))
    if page is not None and not as_json:
        print(f"report: {page}")
    check_points(results)


def write_report(
    folder: Annotated[Path, typer.Argument(help="The folder of a study's results.")],
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="BEFORE", help="Compare with an earlier study of the same points; no page is written."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="With --compare: by which share training may take longer.")
    ] = 0.05,
    mllog: Annotated[
        bool, typer.Option("--mllog", help="Print the runs as MLPerf log lines; no page is written.")
    ] = False,
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Print the KPIs in Prometheus' text format; no page is written."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --compare: print JSON.")] = False,
    machine: Annotated[
        Path | None,
        typer.Option(
            help="Forecast the experiment on this machine: its file, or leonardo-dcgp, ethernet-cluster."
        ),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(metavar="8,64,...", help="With --machine: numbers of ranks; by default powers of two."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="With --machine: of the training split; by default as measured.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="With --machine: forecast this variant alone; may be repeated.")
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="With --machine: of a node of the runs, where their records do not tell."),
    ] = None,
) -> None:
    """Draw the plots and write report.html, report.md and tables again from results.json.

    With --machine the study's runs calibrate a simulation of its experiment on a described machine, as those
    of `dhhpc scale simulate` do. The forecast stays in results.json, and has a part of the report of its own,
    until another one takes its place or the study is run again.

    With --compare it tells instead whether training has become slower since an earlier study, by more than
    chance and the tolerance: then the exit code is 1. It goes by all runs of all points that both measured;
    three repeats or more are best, measured in turn: a repeat of one study, one of the other (`dhhpc scale
    run ... --no-report --repeats 1` of each, then 2, and so on), so that what else changes on the machine
    hits both.

    Example: dhhpc scale report scaling-quickstart

    Example: dhhpc scale report scaling-quickstart --machine leonardo-dcgp --samples 100000 --ranks 8,64,1024

    Example: dhhpc scale report --compare scaling-before scaling-after
    """
    from dhhpc.scaling.reports.preprocessing_report import report_study

    given = {"--ranks": ranks, "--samples": samples, "--variant": variant, "--cores": cores}
    unused = [name for name, value in given.items() if value is not None]
    if unused and machine is None:
        raise DhhpcError(f"{unused[0]}: is of a forecast; give --machine, or leave it out")
    if machine is not None and (compare is not None or mllog or prometheus):
        raise DhhpcError(
            f"--machine {machine}: forecasts for the page, and with --compare, --mllog or --prometheus none "
            f"is written; leave it out"
        )
    if compare is not None:
        from dhhpc.cli.study_comparison import compare_studies

        compare_studies(compare, folder, tolerance, as_json)
        return
    if mllog or prometheus:
        from dhhpc.scaling.reports import exports
        from dhhpc.scaling.studies.results import read_results

        results = read_results(folder)
        if mllog:
            print(*exports.mllog(results), sep="\n")
        if prometheus:
            print(exports.prometheus(results), end="")
        return
    if machine is not None:
        from dhhpc.cli.study_forecast import add_forecast

        add_forecast(folder, machine, ranks, samples, variant or [], cores)
    print(report_study(folder))


def fit_line(fit: Fit) -> str:
    """A fitted model in one line: its parameters with their intervals, or why there are none."""
    if fit.refused is not None:
        return f"{fit.model}: refused: {fit.refused}"
    parameters = (
        f"{each.name} {each.value:.4g} [{each.low:.4g}, {each.high:.4g}]" + f" {each.unit}" * bool(each.unit)
        for each in fit.parameters
    )
    return f"{fit.model}: {', '.join(parameters)} (relative error {fit.relative_rmse:.2g})"


def as_text(results: Results) -> str:
    """The KPIs and test metrics of each rank count, the fitted models, and toppi."""
    from dhhpc.scaling.studies.kinds import kind_of

    kinds = [kind_of(row, results.rows) for row in results.rows]
    width = max(map(len, kinds), default=0)
    width += 2 if width else 0
    target = results.study.target
    head = f"{'':{width}}{'ranks':>5}"
    lines = [
        f"{head}{'totm (s)':>10}{'speed-up':>10}{'efficiency':>12}{'samples/s':>11}{'core-s':>9}"
        + (f"{f'{target.metric} {target.value:g} (s)':>18}" if target else "")
    ]
    for kind, row in zip(kinds, results.rows, strict=True):
        reached = "-" if row.target_seconds is None else f"{row.target_seconds:.1f}"
        lines.append(
            f"{kind:{width}}{row.ranks:5d}{row.totm:10.1f}{row.speed_up:10.2f}{row.efficiency:12.2f}"
            f"{row.samples_per_second:11.1f}{row.core_seconds:9.1f}" + (f"{reached:>18}" if target else "")
        )
    shown: tuple[str, ...] = ("accuracy", "precision", "recall", "f1", "auc")
    if results.task == "segmentation":
        shown = ("dice", "iou", "precision", "recall", "f1", "accuracy")
    names = [name for name in shown if any(name in row.test for row in results.rows)]
    if names:
        lines.append(head + "".join(f"{name:>11}" for name in names) + "   (test split)")
        for kind, row in zip(kinds, results.rows, strict=True):
            cells = (f"{row.test[name]:11.3f}" if name in row.test else f"{'-':>11}" for name in names)
            lines.append(f"{kind:{width}}{row.ranks:5d}" + "".join(cells))
    if results.left_out:
        lines.append(f"not measured: {', '.join(results.left_out)}")
    lines += [fit_line(fit) for fit in results.fits]
    preprocessing = results.preprocessing
    design = preprocessing.design_seconds
    lines.append(
        f"toppi: T1 (design) {'not entered' if design is None else f'{design:.0f} s'}, "
        f"T2 (run) {preprocessing.run_seconds:.1f} s"
        + ("" if preprocessing.toppi is None else f", T1 + T2 {preprocessing.toppi:.1f} s")
    )
    return "\n".join(lines)
