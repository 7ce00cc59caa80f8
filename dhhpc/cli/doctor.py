"""`dhhpc doctor`: whether this machine is fit for dhhpc."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.findings import Finding

EXAMPLE = "Example: dhhpc doctor --path $SCRATCH"
COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def register(app: typer.Typer) -> None:
    app.command("doctor", epilog=EXAMPLE)(doctor)


def doctor(
    path: Annotated[Path, typer.Option(help="A folder on the file system that runs will be on.")] = Path("."),
    ranks: Annotated[bool, typer.Option(help="Start two MPI ranks to see whether they meet.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at this machine: processor, threads, memory, kernels, GPU, MPI, SLURM, disk and clock.

    Each line is ok, warn (works, but slower or less safely) or fail, with the mend below it. The exit code is
    1 if anything fails.
    """
    from dhhpc.doctor import examine
    from dhhpc.errors import DhhpcError

    if not path.is_dir():
        raise DhhpcError(f"--path {path}: no such folder; give one that exists")
    findings = examine(path.resolve(), ranks)
    if as_json:
        seen = list(findings)
        print(json.dumps([asdict(finding) for finding in seen], indent=2))
    else:
        seen = shown(findings)
    if any(finding.state == "fail" for finding in seen):
        raise typer.Exit(1)


def shown(findings: Iterable[Finding]) -> list[Finding]:
    """Print each finding as it comes; returns all."""
    seen = []
    for finding in findings:
        typer.secho(f"{finding.state:4}  ", fg=COLOURS[finding.state], bold=True, nl=False)
        print(f"{finding.subject:14}  {finding.text}", flush=True)
        if finding.mend:
            print(f"{'':22}-> {finding.mend}")
        seen.append(finding)
    return seen
