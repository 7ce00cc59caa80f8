"""`dhhpc submit`: a training run as a batch job."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: dhhpc submit train experiment.yml --site virtual-cluster --nodes 2 --time 00:30:00 --dry-run"
)


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="Submit a run to a batch system.", epilog=EXAMPLE)
    verb.command("train", epilog=EXAMPLE)(train)
    app.add_typer(verb, name="submit")


def train(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    site: Annotated[
        str, typer.Option(help="A site's name (`dhhpc site list`) or the path of its .yml file.")
    ] = "local",
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 1,
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1,
    time: Annotated[
        str | None,
        typer.Option(help="The time limit: minutes, hours:minutes:seconds or days-hours:minutes:seconds."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The job's name; the experiment file's by default.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="The partition; the site's first by default.")] = None,
    account: Annotated[str | None, typer.Option(help="The account to charge; the site's by default.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Cores of each rank; a node's cores shared by its ranks by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job script and the command; submit nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Submit the training of an experiment as a batch job."""
    from dhhpc.batch import JobRequest, preview, read_site, submit
    from dhhpc.batch.duration import parse_duration
    from dhhpc.errors import DhhpcError

    if not experiment.is_file():
        raise DhhpcError(f"{experiment}: no such experiment file; check the path")
    try:
        seconds = parse_duration(time) if time is not None else None
    except ValueError as error:
        raise DhhpcError(f"--time {error}") from None
    request = JobRequest(
        arguments=("train", str(experiment.absolute()), *(["--resume"] if resume else [])),
        name=name if name is not None else experiment.stem,
        folder=str(Path.cwd()),
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        threads=threads,
        seconds=seconds,
        partition=partition,
        account=account,
    )
    where = read_site(site)
    if dry_run:
        script, command = preview(request, where)
        if as_json:
            print(json.dumps({"script": script, "command": command}, indent=2))
        else:
            print(script, end="")
            print(f"\n# submitted by: {shlex.join(command)}")
        return
    record = submit(request, where)
    if as_json:
        print(
            json.dumps(
                {"id": record.id, "site": record.site, "script": str(record.script), "log": record.log}
            )
        )
    else:
        print(f"submitted job {record.id} to {record.site}: {record.ranks} ranks on {record.nodes} nodes")
        print(f"  script: {record.script}\n  log:    {record.log}")
        print(f"  follow it: dhhpc jobs list; dhhpc jobs logs {record.id}; dhhpc jobs cancel {record.id}")
