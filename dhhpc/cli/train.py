"""`dhhpc train`: train the network of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.training import Experiment, Series


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    experiment: Annotated[Path, typer.Argument(help="The experiment file.")],
    ranks: Annotated[int | None, typer.Option(help="Start this many MPI ranks on this machine.")] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(help="With --ranks, in an allocation: so many of them on each node.")
    ] = None,
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
    seeds: Annotated[
        int | None, typer.Option(help="Train a member for each of so many seeds: the file's, the next, ...")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate: training and validation images together are cut into so many parts, whole "
            "patients (or images) each; a member for each part trains on the others. Test images stay out."
        ),
    ] = None,
    member: Annotated[
        int | None, typer.Option(help="Only this member of the series, from 0: a task of a job array.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Copy the shards to this folder first, on a disk of each node's own, and read them there.",
        ),
    ] = None,
    keep_staged: Annotated[
        bool,
        typer.Option("--keep-staged", help="Leave those copies there until you delete them, for other runs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record or the summary as JSON.")] = False,
) -> None:
    """Train a network.

    Leaves a run folder with the model, its record and its checkpoints.

    SIGTERM and SIGUSR1 end it with a checkpoint and exit code 75; --resume then goes on.

    A rank that shows no progress for watch.timeout seconds is named, and all end with 75, too.

    With --seeds or --folds (or both) it trains a series of members one after another, each in a run folder of
    its own below the experiment's, and ends with each metric's mean and deviation over the members.

    With --stage the ranks of each node share the copying. Copies are checked against the shards' SHA-256, and
    removed when training ends or stops, unless another job on the node reads them too.

    Example: dhhpc train experiment.yml --ranks 2 --set optimizer.learning_rate=0.01

    Example: dhhpc train experiment.yml --seeds 5

    Example: dhhpc train experiment.yml --folds 4 --resume
    """
    import sys

    from dhhpc import zoo
    from dhhpc.errors import DhhpcError
    from dhhpc.mpi import launch
    from dhhpc.training import Series, check, read_experiment

    overrides = list(change or [])
    for key, value in (("output", output), ("epochs", epochs), ("threads", threads), ("trace", trace)):
        if value is not None:
            overrides.append(f"{key}={value}")
    check_stage(stage, keep_staged)
    if member is not None and seeds is None and folds is None:
        raise DhhpcError(f"--member {member}: is one of a series; add its --seeds or --folds")

    def read() -> Experiment | Series:
        document = read_experiment(experiment, overrides)
        return document if seeds is None and folds is None else Series(document, seeds, folds)

    if ranks_per_node is not None and (ranks is None or ranks_per_node < 1 or ranks % ranks_per_node):
        raise DhhpcError(f"--ranks-per-node {ranks_per_node}: give a divisor of --ranks, and that, too")
    if ranks is not None:
        # Mistakes are told once, before any rank starts.
        if ranks < 1:
            raise DhhpcError(f"--ranks {ranks}: give a number of ranks of at least 1")
        work = read()
        check(work.members[0].experiment if isinstance(work, Series) else work, ranks, zoo.create)
        raise typer.Exit(launch(ranks, sys.argv[1:], ranks_per_node))
    train_here(read, resume, member, stage, keep_staged, as_json)


def check_stage(stage: str | None, keep_staged: bool) -> None:
    """Refuse options that say nothing, before any rank starts."""
    from dhhpc.errors import DhhpcError

    if stage is not None and not stage.strip():
        raise DhhpcError("--stage: names no folder (is a variable empty?); give one, or leave it out")
    if keep_staged and stage is None:
        raise DhhpcError("--keep-staged: nothing is staged; give a folder with --stage")


def train_here(
    read: Callable[[], Experiment | Series],
    resume: bool,
    member: int | None,
    stage: str | None,
    keep_staged: bool,
    as_json: bool,
) -> None:
    """Train on the ranks that this process is one of, and print what came out."""
    import json

    from dhhpc import zoo
    from dhhpc.cli.series_table import as_text
    from dhhpc.cli.training_progress import training_progress
    from dhhpc.errors import DhhpcError
    from dhhpc.mpi import connect, failing_together
    from dhhpc.training import Series, shown_summary, staged_for_training, train, train_series

    world = connect()
    with failing_together(world):
        work = read()
        first = work.members[0].experiment if isinstance(work, Series) else work
        if isinstance(work, Series):
            with (
                training_progress() as listen,
                staged_for_training(first, stage, world, zoo.create, True, listen, keep_staged) as (
                    staging,
                    stop,
                ),
            ):
                failed = train_series(work, world, zoo.create, resume, listen, member, stop, staging)
            if world.rank == 0:
                summary = shown_summary(work.folder)
                print(json.dumps(summary, indent=2) if as_json else as_text(summary, work.folder), flush=True)
            if failed:
                names = ", ".join(failed)
                raise DhhpcError(f"{work.folder}: {names} failed, as told above; mended, go on with --resume")
            return
        with (
            training_progress() as listen,
            staged_for_training(first, stage, world, zoo.create, resume, listen, keep_staged) as (
                staging,
                stop,
            ),
        ):
            record = train(work, world, zoo.create, resume, listen, stop, staging)
    if world.rank == 0:
        if as_json:
            print(json.dumps(record.content | {"metrics": record.metrics()}, indent=2))
            return
        seconds = record.content["kpis"]["totm"]
        print(f"{record.folder}: trained {work.epochs} epochs in {seconds:.1f} s (totm); next:")
        print(f"  dhhpc evaluate {record.folder}")
