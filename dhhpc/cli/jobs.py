"""`dhhpc jobs`: what became of submitted jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.batch import JobStatus

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
                "log": record.log if record.tasks is None else None,
                "tasks": [
                    {"task": task, "state": of_task.state, "exit_code": of_task.exit_code, "log": str(log)}
                    for task, (of_task, log) in enumerate(zip(status.tasks, record.logs, strict=False))
                ],
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
            f"{record.ranks // record.nodes} ranks  {record.submitted}  {record.name}{tasks_in_words(status)}"
        )


def tasks_in_words(status: JobStatus) -> str:
    """Of an array how many tasks are in each state: " (2 COMPLETED, 1 RUNNING)"."""
    from collections import Counter

    counts = Counter(task.state for task in status.tasks)
    return f" ({', '.join(f'{count} {state}' for state, count in counts.items())})" if counts else ""


def cancel(identifier: Identifier) -> None:
    """End a job that is waiting or running; of an array all tasks that are."""
    from dhhpc.batch import find_job, scheduler_for

    record = find_job(identifier)
    scheduler_for(record.scheduler).cancel(record)
    print(f"cancelled job {record.id} ({record.name})")


def logs(
    identifier: Identifier,
    task: Annotated[int | None, typer.Option(help="Of an array, only this task, from 0.")] = None,
) -> None:
    """Print what a job has written so far; of an array all tasks, each under its number."""
    import shutil
    import sys

    from dhhpc.batch import find_job, scheduler_for
    from dhhpc.errors import DhhpcError

    record = find_job(identifier)
    if task is not None and not 0 <= task < (record.tasks or 0):
        known = f"has the tasks 0 to {record.tasks - 1}" if record.tasks else "is no array: drop --task"
        raise DhhpcError(f"--task {task}: job {record.id} {known}")
    chosen = record.logs if task is None else [record.logs[task]]
    written = [path for path in chosen if path.is_file()]
    if not written:
        state = scheduler_for(record.scheduler).status(record).state
        raise DhhpcError(f"{chosen[0]}: nothing written yet; job {record.id} is {state}")
    for path in written:
        if len(chosen) > 1:
            print(f"== task {record.logs.index(path)}", flush=True)
        with open(path, encoding="utf-8", errors="replace") as log:
            shutil.copyfileobj(log, sys.stdout)
