"""`dhhpc train`: train the network of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    experiment: Annotated[Path, typer.Argument(help="The experiment file.")],
    ranks: Annotated[int | None, typer.Option(help="Start this many MPI ranks on this machine.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of the run folder.")] = False,
    output: Annotated[Path | None, typer.Option(help="The run folder, instead of the file's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, instead of the file's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each rank, instead of the file's.")] = None,
    trace: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="BATCHES",
            help="Write a timeline of the first batches of each epoch, one file a rank, for Perfetto.",
        ),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any key of the file.")
    ] = None,
) -> None:
    """Train a network; leaves a run folder with the model, its record and its checkpoints.

    SIGTERM and SIGUSR1 end it with a checkpoint and exit code 75; --resume then goes on.

    A rank that shows no progress for watch.timeout seconds is named, and all end with 75, too.

    Example: dhhpc train experiment.yml --ranks 2 --set optimizer.learning_rate=0.01
    """
    import sys

    from dhhpc import zoo
    from dhhpc.cli.training_progress import training_progress
    from dhhpc.errors import DhhpcError
    from dhhpc.mpi import connect, failing_together, launch
    from dhhpc.training import check, read_experiment, train

    overrides = list(change or [])
    for key, value in (("output", output), ("epochs", epochs), ("threads", threads), ("trace", trace)):
        if value is not None:
            overrides.append(f"{key}={value}")
    if ranks is not None:
        # Mistakes are told once, before any rank starts.
        if ranks < 1:
            raise DhhpcError(f"--ranks {ranks}: give a number of ranks of at least 1")
        check(read_experiment(experiment, overrides), ranks, zoo.create)
        raise typer.Exit(launch(ranks, sys.argv[1:]))
    world = connect()
    with failing_together(world):
        document = read_experiment(experiment, overrides)
        with training_progress() as listen:
            record = train(document, world, zoo.create, resume, listen)
    if world.rank == 0:
        seconds = record.content["kpis"]["totm"]
        print(f"{record.folder}: trained {document.epochs} epochs in {seconds:.1f} s (totm); next:")
        print(f"  dhhpc evaluate {record.folder}")
