"""`dhhpc scale simulate`: a forecast for machines and numbers of ranks that nobody has measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.scaling.forecasts.forecast import Forecaster
    from dhhpc.training import Experiment

# Offered unless --ranks says otherwise.
MOST_RANKS = 10_000
FIGURE, RESULT = "forecast.png", "forecast.json"


def simulate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders of one network, on a few ranks each.")
    ],
    machine: Annotated[
        Path, typer.Option(help="The file of a machine, or a ready one: leonardo-dcgp, ethernet-cluster.")
    ],
    ranks: Annotated[
        str | None, typer.Option(metavar="1,2,4,...", help="Numbers of ranks; by default powers of two.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How ranks learn together, instead of the first run's.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the first run's experiment."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the experiment's.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of the training split; as measured by default.")
    ] = None,
    weak: Annotated[bool, typer.Option("--weak", help="Samples grow with the ranks.")] = False,
    target: Annotated[
        float, typer.Option(min=0.01, max=1, help="The efficiency that an averaging period is to reach.")
    ] = 0.8,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Validate: forecast this run instead, and print the error."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Of a node of the runs, where their records do not tell.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawn jitter and failures.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    output: Annotated[Path | None, typer.Option(help=f"A folder for {RESULT} and the plot {FIGURE}.")] = None,
) -> None:
    """Forecast training on more ranks, or another machine, from runs on a few.

    A simulation of the trainer's schedule step by step: the pace and jitter of ranks are measured, network,
    disk, failures and queue are those of a described machine. It prints what it takes for granted.

    Example: dhhpc scale simulate runs/one runs/two --machine leonardo-dcgp --samples 1000000

    Example: dhhpc scale simulate runs/one --machine here.yml --against runs/two --against runs/four
    """
    import json

    from dhhpc.cli import simulation_table as tables
    from dhhpc.files import write_json
    from dhhpc.scaling.forecasts.calibration import calibrate
    from dhhpc.scaling.forecasts.forecast import Forecaster, forecast
    from dhhpc.scaling.forecasts.network import read_machine
    from dhhpc.scaling.forecasts.validation import validate

    described = read_machine(machine)
    if against:
        given = {"--ranks": ranks, "--method": method, "--set": change, "--epochs": epochs}
        given |= {"--samples": samples, "--weak": weak or None}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise DhhpcError(f"{unused[0]}: says nothing with --against, whose runs tell; leave it out")
        validation = validate(runs, against, described, cores)
        document = tables.validation_document(validation)
        if as_json:
            print(json.dumps(document, indent=2))
        else:
            tables.show_validation(validation)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / RESULT, document)
        return
    calibration = calibrate(runs, cores)
    experiment = changed(calibration.experiment, method, change or [], epochs)
    forecaster = Forecaster(calibration, described, experiment, samples, weak, seed)
    found = forecast(forecaster, counts_of(ranks, forecaster), target)
    document = tables.forecast_document(forecaster, found)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        tables.show_forecast(forecaster, found)
    if output is not None:
        from dhhpc.scaling.forecasts.plots import plot_forecast

        output.mkdir(parents=True, exist_ok=True)
        write_json(output / RESULT, document)
        measured = measured_ranks(runs)
        plot_forecast(found.rows, measured, f"Efficiency on {described.name}", output / FIGURE)
        if not as_json:
            print(f"plot: {output / FIGURE}")


def counts_of(text: str | None, forecaster: Forecaster) -> list[int]:
    """The numbers of ranks of --ranks, or powers of two that the machine and the work allow, and the most.

    Raises:
        DhhpcError: one is no number above 0.
    """
    if text is None:
        most = min(forecaster.machine.most_ranks, MOST_RANKS)
        if not forecaster.weak:
            most = min(most, forecaster.samples)
        return sorted({*(2**power for power in range(most.bit_length())), most})
    counts = text.replace(" ", "").split(",")
    wrong = [count for count in counts if not count.isdigit() or not int(count)]
    if wrong:
        raise DhhpcError(f"--ranks {text}: {wrong[0]!r} is no number of ranks; write 1,2,4")
    return [int(count) for count in counts]


def changed(
    experiment: Experiment, method: str | None, overrides: list[str], epochs: int | None
) -> Experiment:
    """The experiment with another method and other keys.

    Raises:
        DhhpcError: there is no such method or key.
    """
    from dhhpc.training.experiment import with_override

    if method is not None:
        batch = experiment.parallel.batch  # other keys may be none of the new method's
        experiment = with_override(experiment, f"parallel={{method: {method}, batch: {batch}}}")
    for override in [*overrides, *([] if epochs is None else [f"epochs={epochs}"])]:
        experiment = with_override(experiment, override)
    return experiment


def measured_ranks(runs: list[Path]) -> list[int]:
    """Of runs."""
    from dhhpc.training import read_run

    return sorted({read_run(run).content["ranks"] for run in runs})
