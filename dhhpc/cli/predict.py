"""`dhhpc predict`: masks or classes of new images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(predict)


def predict(
    run: Annotated[
        Path, typer.Argument(help="The run folder that `dhhpc train` wrote, or the folder of a series.")
    ],
    inputs: Annotated[
        list[Path], typer.Argument(help="Image files, folders of a DICOM series each, or folders of shards.")
    ],
    output: Annotated[Path, typer.Option(help="The folder for the results.")],
    split: Annotated[str, typer.Option(help="Which split of folders of shards.")] = "test",
    ranks: Annotated[int | None, typer.Option(help="Start this many MPI ranks on this machine.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each rank.")] = None,
    spatial: Annotated[
        bool, typer.Option("--spatial", help="Cut each image over the ranks: for images too large for one.")
    ] = False,
) -> None:
    """Predict masks or classes of new images.

    Masks are PNG files, NIfTI for volumes; classes go into predictions.json.

    Images go through the pipeline of the training's preprocessing; masks come back on the grid of the input.
    The members of a series predict together: their probabilities are averaged.

    Example: dhhpc predict runs/lungs scan-17/ scan-18.nii.gz --output masks
    """
    import sys

    from dhhpc import zoo
    from dhhpc.data.shards import ShardSet
    from dhhpc.mpi import connect, failing_together, launch
    from dhhpc.training import (
        Predictor,
        holds_series,
        load_ensemble,
        load_network,
        predict,
        read_run,
        read_series,
        use_threads,
    )

    def load() -> tuple[Predictor, ShardSet]:
        if holds_series(run):
            return load_ensemble(read_series(run), zoo.create)
        network, _, own = load_network(read_run(run), zoo.create)
        return network, own

    if ranks is not None:
        load()
        raise typer.Exit(launch(ranks, sys.argv[1:]))
    world = connect()
    with failing_together(world):
        use_threads(world, threads)
        model, shards = load()
        predict(model, shards, inputs, output, world, split, print, spatial)
