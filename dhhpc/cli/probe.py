"""`dhhpc scale probe`: measure network, memory and disk of the ranks that there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.scaling.forecasts.probe import Line, Probe


def probe(
    ranks: Annotated[int | None, typer.Option(help="Start this many MPI ranks on this machine.")] = None,
    path: Annotated[
        Path, typer.Option(help="A folder on the disk to measure, such as the scratch folder.")
    ] = Path("."),
    output: Annotated[Path | None, typer.Option(help="Write the measurements as JSON.")] = None,
    machine: Annotated[
        Path | None, typer.Option(help="Write a machine for `dhhpc scale simulate`, to be completed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Measure latency and bandwidth between ranks, sums over all, copying in memory, and a disk.

    Under srun or mpiexec the ranks are those that it started; of several nodes, messages within one and from
    one to another are told apart. Everything else on the machine disturbs it.

    Example: dhhpc scale probe --ranks 2 --path $SCRATCH --output probe.json --machine here.yml
    """
    import json
    import sys

    from dhhpc.documents import write_document
    from dhhpc.errors import DhhpcError
    from dhhpc.files import write_json
    from dhhpc.mpi import connect, failing_together, launch
    from dhhpc.scaling.forecasts.probe import probe as measure
    from dhhpc.scaling.forecasts.probe_machine import machine_of

    if not path.is_dir():
        raise DhhpcError(f"--path {path}: no such folder; name one on the disk to measure")
    if ranks is not None:
        raise typer.Exit(launch(ranks, sys.argv[1:]))
    world = connect()
    with failing_together(world):
        if machine is not None and world.size == 1:
            raise DhhpcError("--machine: one rank has nobody to send to; probe with --ranks 2 or more")
        found = measure(world, path)
        if world.rank == 0:
            if output is not None:
                write_json(output, found.document())
            if machine is not None:
                write_document(machine, machine_of(found))
            if as_json:
                print(json.dumps(found.document(), indent=2), flush=True)
            else:
                show(found)


def show(found: Probe) -> None:
    """Print the lines and what was measured once."""
    from rich.console import Console
    from rich.table import Table

    print(
        f"{found.ranks} rank{'s' if found.ranks > 1 else ''}, {found.ranks_per_node} a node of {found.cores} "
        f"cores ({found.processor}); host{'s' if len(found.hosts) > 1 else ''} {', '.join(found.hosts)}"
    )
    lines: dict[str, Line | None] = {
        "within a node": found.within,
        "across nodes": found.across,
        f"sum of {found.ranks}": found.sums,
    }
    shown = {name: line for name, line in lines.items() if line is not None}
    if shown:
        table = Table("bytes", *shown)
        for row, size in enumerate(next(iter(shown.values())).sizes):
            table.add_row(str(size), *(microseconds(line.seconds[row]) for line in shown.values()))
        table.add_section()
        table.add_row("latency", *(microseconds(line.latency) for line in shown.values()))
        table.add_row("bandwidth", *(rate(line.bandwidth) for line in shown.values()))
        off = (f"{max(abs(each) for each in line.residuals):.0%}" for line in shown.values())
        table.add_row("line off by at most", *off)
        Console(width=None if Console().is_terminal else 160, soft_wrap=True).print(table)
    print(f"memory: {rate(found.copy)} read and written by the ranks of a node that copy")
    disk = found.disk
    print(
        f"disk at {disk.folder}: {rate(disk.write)} written and synchronised, {rate(disk.read)} read by all "
        f"ranks; {microseconds(disk.latency)} for a small file",
        flush=True,
    )


def microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:.4g} us"


def rate(value: float) -> str:
    return f"{value / 1e9:.3g} GB/s" if value >= 1e9 else f"{value / 1e6:.3g} MB/s"
