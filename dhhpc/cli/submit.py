"""`dhhpc submit`: a training run as a batch job."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.training import Series

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
    qos: Annotated[str | None, typer.Option(help="The quality of service; the site's by default.")] = None,
    gpus: Annotated[
        int | None, typer.Option(help="Graphics processors of each node; all that it has by default.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value of the site config, see `dhhpc site show`."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Cores of each rank; a node's cores shared by its ranks by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="A series of so many seeds, see `dhhpc train`: an array of tasks.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="A series of so many folds, see `dhhpc train`: an array of tasks.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="At most so many members of a series at the same time.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job script and the command; submit nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Submit the training of an experiment as a batch job.

    A series (--seeds, --folds) is one job array: nodes, ranks and time are those of each member. Tasks that
    are requeued go on with their member, and the last to finish leaves the summary. On a local site the
    members are trained one after another.

    Example: dhhpc submit train experiment.yml --site virtual-cluster --time 00:30:00 --seeds 5 --at-once 2
    """
    from dhhpc.batch import JobRequest, preview, read_site, submit
    from dhhpc.batch.duration import parse_duration
    from dhhpc.errors import DhhpcError

    if not experiment.is_file():
        raise DhhpcError(f"{experiment}: no such experiment file; check the path")
    try:
        seconds = parse_duration(time) if time is not None else None
    except ValueError as error:
        raise DhhpcError(f"--time {error}") from None
    series = series_of(experiment, seeds, folds)
    counts = {"--seeds": seeds, "--folds": folds}
    options = [f"{option}={count}" for option, count in counts.items() if count is not None]
    # The folder of a series is claimed here; its tasks go on with what they find, also when requeued.
    options += ["--resume"] if resume or series else []
    request = JobRequest(
        arguments=("train", str(experiment.absolute()), *options),
        name=name if name is not None else experiment.stem,
        folder=str(Path.cwd()),
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        threads=threads,
        seconds=seconds,
        partition=partition,
        account=account,
        qos=qos,
        gpus=gpus,
        tasks=len(series.members) if series else None,
        at_once=at_once,
    )
    where = read_site(site, settings or [])
    if dry_run:
        script, command = preview(request, where)
        if as_json:
            print(json.dumps({"script": script, "command": command}, indent=2))
        else:
            print(script, end="")
            print(f"\n# submitted by: {shlex.join(command)}")
        return
    claimed = series is not None and series.claim(resume)
    try:
        record = submit(request, where)
    except BaseException:
        if series is not None and claimed:
            series.withdraw()
        raise
    if as_json:
        print(
            json.dumps(
                {
                    "id": record.id,
                    "site": record.site,
                    "script": str(record.script),
                    "log": record.log if record.tasks is None else None,
                    "tasks": [str(log) for log in record.logs] if record.tasks is not None else [],
                }
            )
        )
    else:
        array = f", an array of {record.tasks} tasks" if record.tasks else ""
        print(
            f"submitted job {record.id} to {record.site}: {record.ranks} ranks on {record.nodes} nodes{array}"
        )
        print(f"  script: {record.script}")
        print("\n".join(f"  log:    {log}" for log in record.logs))
        if series:
            print(f"  summary of the members: dhhpc runs show {series.folder}")
        print(f"  follow it: dhhpc jobs list; dhhpc jobs logs {record.id}; dhhpc jobs cancel {record.id}")


def series_of(experiment: Path, seeds: int | None, folds: int | None) -> Series | None:
    """The series to submit, its experiment read and checked here, before it waits in a queue."""
    if seeds is None and folds is None:
        return None
    from dhhpc.training import Series, read_experiment

    return Series(read_experiment(experiment), seeds, folds)
