"""`dhhpc preprocess`: a dataset through a pipeline into shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(preprocess)


def preprocess(
    document: Annotated[Path, typer.Argument(metavar="PREPROCESS.yml", help="Dataset, output and pipeline.")],
    output: Annotated[
        Path | None, typer.Option(help="The folder of shards, instead of the one the document names.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Start this many MPI ranks (from a login shell).")
    ] = None,
    on_error: Annotated[
        str | None, typer.Option(help="At a damaged image: `stop`, or `skip` it and count it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Turn the images of a dataset into training shards (HDF5).

    Works on any number of ranks. Started again after a failure or a kill, it keeps the shards that are
    finished and makes the others.

    Example: dhhpc preprocess preprocess.yml --ranks 4 --on-error skip
    """
    if on_error not in (None, "stop", "skip"):
        raise typer.BadParameter(f"{on_error!r} is neither stop nor skip", param_hint="--on-error")
    if ranks is not None:
        from dhhpc.mpi import launch

        raise typer.Exit(launch(ranks, sys.argv[1:]))
    import dataclasses
    import json

    from dhhpc.cli.progress import progress_shown
    from dhhpc.data.preprocessing import preprocess as run
    from dhhpc.data.preprocessing import read_preprocess
    from dhhpc.mpi import connect, failing_together

    world = connect()
    with failing_together(world):
        settings = read_preprocess(document)
        if output is not None:
            settings.output = str(output.absolute())
        if on_error is not None:
            settings.on_error = "skip" if on_error == "skip" else "stop"
        with progress_shown("preprocess", "shards") as progress:
            summary = run(settings, world, progress, lambda line: print(line, file=sys.stderr))
    if world.rank != 0:
        return
    if as_json:
        values = dataclasses.asdict(summary)
        values["output"] = str(summary.output)
        values["skipped"] = [image.model_dump() for image in summary.skipped]
        print(json.dumps(values, indent=2))
        return
    counts = ", ".join(f"{count} {split}" for split, count in summary.samples.items())
    print(f"{summary.output}: {counts} samples ({summary.bytes / 1e6:.1f} MB) in {summary.seconds:.1f} s")
    if summary.reused:
        print(f"{summary.reused} shards were finished already, {summary.written} were made")
    for image in summary.skipped:
        print(f"skipped {image.location}: {image.reason}")
