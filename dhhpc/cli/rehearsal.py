"""`dhhpc scale rehearse`: an experiment trained for some seconds, to learn its pace and its memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.scaling.resources.rehearsal import Rehearsal
    from dhhpc.training import Experiment


def rehearse(
    experiment: Annotated[Path, typer.Argument(help="The experiment file.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples that the rank has of a batch; the file's by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the rank; the file's, or one a core, by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="About how long, beside the start.")] = 20.0,
    output: Annotated[
        Path | None, typer.Option(help="Where to write it, for `dhhpc submit suggest --rehearsal`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Train an experiment for some seconds on one rank: its pace on this machine, and its memory.

    It is real training on the first of the real samples, a validation and a checkpoint among it, in a
    temporary folder beside the run's. On a node of the kind that will train it tells the most:
    dhhpc submit command --site NAME --time 10 -- scale rehearse FILE --output rehearsal.json

    Example: dhhpc scale rehearse experiment.yml --threads 8 --output rehearsal.json
    """
    import os
    import sys

    from dhhpc import zoo
    from dhhpc.files import write_json
    from dhhpc.mpi.launcher import detect_launcher
    from dhhpc.scaling.resources import rehearsal

    launcher = detect_launcher(os.environ)
    if launcher.ranks > 1:
        raise DhhpcError(
            f"{experiment}: {launcher.name} started {launcher.ranks} processes, of which one is rehearsed; "
            f"start a single one"
        )
    found = rehearsal.rehearse(
        with_threads(experiment, threads),
        zoo.create,
        batch_size,
        seconds,
        lambda line: print(f"rehearsal: {line}", file=sys.stderr, flush=True),
    )
    if output is not None:
        write_json(output, found.model_dump())
    print(found.model_dump_json(indent=2) if as_json else as_text(found))


def with_threads(file: Path, threads: int | None) -> Experiment:
    """The experiment in a file, with the threads of an option."""
    from dhhpc.training import read_experiment

    return read_experiment(file, [] if threads is None else [f"threads={threads}"])


def rehearsed(file: Path, threads: int, batch_size: int, seconds: float) -> Rehearsal:
    """A rehearsal in a process of its own, whose memory is that of training alone.

    Raises:
        DhhpcError: it has failed; its own line.
    """
    import sys
    import tempfile

    from dhhpc.batch.command import run_dhhpc
    from dhhpc.batch.job_log import last_error_line
    from dhhpc.cli.allocation_table import counted
    from dhhpc.scaling.resources.rehearsal import read_rehearsal

    print(
        f"rehearsal: trains {file} here for about {seconds:g} s, on one rank of {counted(threads, 'thread')}",
        file=sys.stderr,
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="dhhpc-rehearsal-") as folder:
        found, log = Path(folder) / "rehearsal.json", Path(folder) / "log"
        words = ["scale", "rehearse", str(file), "--threads", str(threads), "--batch-size", str(batch_size)]
        try:
            run_dhhpc([*words, "--seconds", f"{seconds:g}", "--output", str(found)], log)
        except DhhpcError:
            line = last_error_line(log).removeprefix("dhhpc: ")
            raise DhhpcError(f"the rehearsal failed: {line}") from None
        return read_rehearsal(found, with_threads(file, threads))


def as_text(found: Rehearsal) -> str:
    """A rehearsal for people."""
    from dhhpc.cli.allocation_table import counted

    validation = found.validation_pace
    mpi = found.mpi_bytes
    return "\n".join(
        [
            f"{found.experiment['name']}, one rank of {counted(found.threads, 'thread')} on {found.host} "
            f"({found.processor}, {counted(found.cores, 'core')}):",
            f"  {1 / found.pace:.4g} training samples/s in batches of {found.batch_size}, the median of "
            f"{found.batches}",
            f"  {'no validation' if validation is None else f'{1 / validation:.4g} validation images/s'}",
            f"  {found.startup_seconds:.1f} s from the start of the process to the first batch",
            f"  {mib(found.peak_bytes)} at the peak, where a training with one sample a batch had predicted "
            f"{mib(found.predicted_bytes)}: {mib(found.counted_bytes)} counted, the rest is the process",
            "  MPI: could not be measured, as no two ranks start here"
            if mpi is None
            else f"  {mib(mpi)} more for MPI in a rank of several",
        ]
    )


def mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
