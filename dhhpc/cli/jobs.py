"""`dhhpc jobs`: what became of submitted jobs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

EXAMPLE = "Example: dhhpc jobs logs 1234"

Identifier = Annotated[str, typer.Argument(help="The job's id, as `dhhpc jobs list` shows it.")]


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="What became of submitted jobs.", epilog=EXAMPLE)
    verb.command("list", epilog="Example: dhhpc jobs list --json")(list_jobs)
    verb.command("cancel", epilog="Example: dhhpc jobs cancel 1234")(cancel)
    verb.command("logs", epilog=EXAMPLE)(logs)
    app.add_typer(verb, name="jobs")


def list_jobs(
    count: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List submitted jobs and where each stands."""
    from itertools import islice

    from dhhpc.batch import job_records, read_statuses

    records = list(islice(job_records(), count))
    statuses = read_statuses(records)
    if as_json:
        rows = [
            {
                "id": record.id,
                "name": record.name,
                "site": record.site,
                "state": status.state,
                "exit_code": status.exit_code,
                "nodes": record.nodes,
                "ranks": record.ranks,
                "submitted": record.submitted,
                "log": record.log,
            }
            for record, status in zip(records, statuses, strict=True)
        ]
        print(json.dumps(rows, indent=2))
        return
    if not records:
        print("no jobs yet; submit one with dhhpc submit")
    for record, status in zip(records, statuses, strict=True):
        code = f" ({status.exit_code})" if status.exit_code else ""
        print(
            f"{record.id:>10}  {status.state + code:16}  {record.site:16}  {record.nodes} x "
            f"{record.ranks // record.nodes} ranks  {record.submitted}  {record.name}"
        )


def cancel(identifier: Identifier) -> None:
    """End a job that is waiting or running."""
    from dhhpc.batch import find_job, scheduler_for

    record = find_job(identifier)
    scheduler_for(record.scheduler).cancel(record)
    print(f"cancelled job {record.id} ({record.name})")


def logs(identifier: Identifier) -> None:
    """Print what a job has written so far."""
    import shutil
    import sys

    from dhhpc.batch import find_job, scheduler_for
    from dhhpc.errors import DhhpcError

    record = find_job(identifier)
    try:
        with open(record.log, encoding="utf-8", errors="replace") as log:
            shutil.copyfileobj(log, sys.stdout)
    except FileNotFoundError:
        state = scheduler_for(record.scheduler).status(record).state
        raise DhhpcError(f"{record.log}: nothing written yet; job {record.id} is {state}") from None
