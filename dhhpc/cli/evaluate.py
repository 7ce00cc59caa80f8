"""`dhhpc evaluate`: the metrics of a trained network on a split."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dhhpc.cli.training_progress import print_event, print_line

if TYPE_CHECKING:
    from dhhpc.data.shards import ShardSet
    from dhhpc.data.staged_copy import Staged
    from dhhpc.training import Predictor


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="The run folder that `dhhpc train` wrote, or the folder of a series.")
    ],
    split: Annotated[str, typer.Option(help="training, validation or test.")] = "test",
    shards: Annotated[
        Path | None, typer.Option(help="Other shards than those the network was trained on.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Start this many MPI ranks on this machine.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each rank.")] = None,
    spatial: Annotated[
        bool, typer.Option("--spatial", help="Cut each image over the ranks: for images too large for one.")
    ] = False,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Copy the split's shards to this folder first, on a disk of each node's own.",
        ),
    ] = None,
    keep_staged: Annotated[
        bool, typer.Option("--keep-staged", help="Leave those copies there until you delete them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a trained network on whole images.

    Images that have regions count inside them. The metrics also go into metrics.json of the run folder
    (unless other shards are given).

    Of a series every member is evaluated, and all of them as an ensemble, whose probabilities are the means
    of the members'; on other shards the ensemble alone.

    With --stage the ranks of each node first copy the shards of the split there, as `dhhpc train` does.

    Example: dhhpc evaluate runs/lungs --split test --ranks 2
    """
    import json
    import sys

    from dhhpc import zoo
    from dhhpc.cli import series_table
    from dhhpc.cli.train import check_stage
    from dhhpc.mpi import connect, failing_together, launch
    from dhhpc.training import (
        Experiment,
        evaluate,
        evaluate_series,
        holds_series,
        load_ensemble,
        load_network,
        read_run,
        read_series,
        shown_summary,
        staged,
        use_threads,
    )
    from dhhpc.training.experiment import Data

    check_stage(stage, keep_staged)
    series = read_series(run) if holds_series(run) else None

    def load(copy: Staged | None = None) -> tuple[Predictor, ShardSet]:
        if series is not None:
            return load_ensemble(series, zoo.create, copy)
        model, _, own = load_network(read_run(run), zoo.create, copy)
        return model, own

    def stored() -> Data:
        if shards is not None:
            return Data(shards=shards)
        trained = (
            series.experiment if series else Experiment.model_validate(read_run(run).content["experiment"])
        )
        return trained.data

    if ranks is not None:
        load()
        raise typer.Exit(launch(ranks, sys.argv[1:]))
    world = connect()
    with failing_together(world), contextlib.ExitStack() as stack:
        use_threads(world, threads)
        copy: Staged | None = None
        if stage is not None:
            data = stored()
            splits = data.stored_splits(split)
            copy = stack.enter_context(
                staged(data.shards, splits, stage, world, tell, keep_staged, ready=load)
            )
        if series is not None and shards is None:
            evaluate_series(series, split, world, zoo.create, spatial, copy)
            if world.rank == 0:
                summary = shown_summary(run)
                print(json.dumps(summary, indent=2) if as_json else series_table.as_text(summary, run))
            return
        if shards is None:
            model, chosen = load(copy)
        else:
            model, chosen = load()[0], stored().open(copy)
        metrics = evaluate(model, chosen, split, world, spatial)
        if world.rank == 0 and shards is None:
            read_run(run).write_metrics(split, metrics)
    if world.rank == 0:
        print(json.dumps(metrics, indent=2) if as_json else as_text(metrics, f"{run}, {split} split"))


def tell(event: str, values: dict[str, Any]) -> None:
    print_event(event, values, print_line)


def as_text(metrics: dict[str, object], title: str) -> str:
    """The metrics as lines; those of each class below the means."""
    lines = [title]
    for name, value in metrics.items():
        if not isinstance(value, dict | list):
            lines.append(f"  {name:12}{number(value)}")
    classes = metrics.get("classes")
    if isinstance(classes, dict):
        for name, values in classes.items():
            row = ", ".join(f"{key} {number(value)}" for key, value in values.items())
            lines.append(f"  {name}: {row}")
    return "\n".join(lines)


def number(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
