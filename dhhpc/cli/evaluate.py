"""`dhhpc evaluate`: the metrics of a trained network on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a trained network on whole images.

    Images that have regions count inside them. The metrics also go into metrics.json of the run folder
    (unless other shards are given).

    Of a series every member is evaluated, and all of them as an ensemble, whose probabilities are the means
    of the members'; on other shards the ensemble alone.

    Example: dhhpc evaluate runs/lungs --split test --ranks 2
    """
    import json
    import sys

    from dhhpc import zoo
    from dhhpc.cli import series_table
    from dhhpc.data.shards import ShardSet
    from dhhpc.mpi import connect, failing_together, launch
    from dhhpc.training import (
        evaluate,
        evaluate_series,
        holds_series,
        load_ensemble,
        load_network,
        read_run,
        read_series,
        shown_summary,
        use_threads,
    )

    series = read_series(run) if holds_series(run) else None
    if ranks is not None:
        if series is None:
            load_network(read_run(run), zoo.create)
        else:
            load_ensemble(series, zoo.create)
        raise typer.Exit(launch(ranks, sys.argv[1:]))
    world = connect()
    with failing_together(world):
        use_threads(world, threads)
        if series is not None and shards is None:
            evaluate_series(series, split, world, zoo.create, spatial)
            if world.rank == 0:
                summary = shown_summary(run)
                print(json.dumps(summary, indent=2) if as_json else series_table.as_text(summary, run))
            return
        if series is not None:
            ensemble, _ = load_ensemble(series, zoo.create)
            metrics = evaluate(ensemble, ShardSet(shards or ""), split, world, spatial)
            if world.rank == 0:
                print(json.dumps(metrics, indent=2) if as_json else as_text(metrics, f"{run}, {split} split"))
            return
        record = read_run(run)
        model, _, own = load_network(record, zoo.create)
        metrics = evaluate(model, ShardSet(shards) if shards else own, split, world, spatial)
        if world.rank == 0 and shards is None:
            record.write_metrics(split, metrics)
    if world.rank == 0:
        print(json.dumps(metrics, indent=2) if as_json else as_text(metrics, f"{run}, {split} split"))


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
