"""`dhhpc doctor`: whether this machine is fit for dhhpc."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: dhhpc doctor --path $SCRATCH"


def register(app: typer.Typer) -> None:
    app.command("doctor", epilog=EXAMPLE)(doctor)


def doctor(
    path: Annotated[Path, typer.Option(help="A folder on the file system that runs will be on.")] = Path("."),
    ranks: Annotated[bool, typer.Option(help="Start two MPI ranks to see whether they meet.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Whether this machine is fit for dhhpc.

    Looks at processor, threads, memory, kernels, GPU, MPI, SLURM, disk and clock.

    Each line is ok, warn (works, but slower or less safely) or fail, with the mend below it. The exit code is
    1 if anything fails.
    """
    from dhhpc.cli.findings import show
    from dhhpc.doctor import examine
    from dhhpc.errors import DhhpcError

    if not path.is_dir():
        raise DhhpcError(f"--path {path}: no such folder; give one that exists")
    if not show(examine(path.resolve(), ranks), as_json):
        raise typer.Exit(1)
