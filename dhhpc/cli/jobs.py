"""`dhhpc jobs`: what became of submitted jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dhhpc.batch import Explanation, JobRecord, JobStatus

EXAMPLE = "Example: dhhpc jobs why 1234"

Identifier = Annotated[str, typer.Argument(help="The job's id, as `dhhpc jobs list` shows it.")]
Task = Annotated[int | None, typer.Option(help="Of an array, only this task, from 0.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="What became of submitted jobs.", epilog=EXAMPLE)
    verb.command("list", epilog="Example: dhhpc jobs list --json")(list_jobs)
    verb.command("why", epilog=EXAMPLE)(why)
    verb.command("logs", epilog="Example: dhhpc jobs logs 1234 --follow")(logs)
    verb.command("cancel", epilog="Example: dhhpc jobs cancel 1234")(cancel)
    app.add_typer(verb, name="jobs")


def list_jobs(
    count: Annotated[int, typer.Option(help="How many, the newest first.", min=1)] = 20,
    as_json: AsJson = False,
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
                "reason": status.reason,
                "restarts": status.restarts,
                "exit_code": status.exit_code,
                "nodes": record.nodes,
                "ranks": record.ranks,
                "submitted": record.submitted,
                "log": record.log if record.tasks is None else None,
                "tasks": [
                    {
                        "task": task,
                        "state": of_task.state,
                        "reason": of_task.reason,
                        "restarts": of_task.restarts,
                        "exit_code": of_task.exit_code,
                        "log": str(log),
                    }
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
            f"{record.ranks // record.nodes} ranks  {record.submitted}  {record.name}{notes(status)}"
        )


def notes(status: JobStatus) -> str:
    """What else there is to say of a job: " (2 COMPLETED, 1 RUNNING; queued again once)"."""
    from collections import Counter

    counts = Counter(task.state for task in status.tasks)
    said = [", ".join(f"{count} {state}" for state, count in counts.items())] if counts else []
    if status.state == "PENDING" and status.reason:
        said.append(status.reason)
    if status.restarts:
        said.append(f"queued again {times(status.restarts)}")
    return f" ({'; '.join(said)})" if said else ""


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def why(identifier: Identifier, task: Task = None, as_json: AsJson = False) -> None:
    """Tell why a job is pending or has failed, and what helps.

    Asks the scheduler (and its accounts, where it keeps any), and reads the log for the last error line of
    the failing rank. Tasks of an array that fared alike stand together.
    """
    from dataclasses import asdict

    from dhhpc.batch import explain, find_job

    record = find_job(identifier)
    check_task(record, task)
    explanations = explain(record, task)
    if as_json:
        fates = [asdict(one) for one in explanations]
        print(
            json.dumps({"id": record.id, "name": record.name, "site": record.site, "fates": fates}, indent=2)
        )
        return
    for one in explanations:
        print("\n".join(paragraph(record, one)))


def paragraph(record: JobRecord, one: Explanation) -> list[str]:
    """What to print of one explanation, line by line."""
    which = f" {in_ranges(one.tasks)}" if one.tasks else ""
    reason = f" ({one.reason})" if one.reason and one.cause == "pending" else ""
    lines = [f"job {record.id} {record.name}{which}: {one.state}{reason}", f"  {one.summary}"]
    if one.error:
        whose = f"rank {one.rank} on {one.host}" if one.rank is not None else "the log"
        lines.append(f"  {whose} says: {one.error}")
    if one.mend:
        lines.append(f"  what helps: {one.mend}")
    lines += [f"  log: {log}" for log in one.logs]
    if one.next:
        lines.append(f"  next: {one.next}")
    return lines


def in_ranges(tasks: Sequence[int]) -> str:
    """Tasks in words: "task 2", "tasks 0-3, 5"."""
    ranges: list[list[int]] = []
    for task in sorted(tasks):
        if ranges and ranges[-1][-1] == task - 1:
            ranges[-1].append(task)
        else:
            ranges.append([task])
    said = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ranges]
    return f"{'task' if len(tasks) == 1 else 'tasks'} {', '.join(said)}"


def cancel(identifier: Identifier, task: Task = None) -> None:
    """End a job that is waiting or running; of an array all tasks that are, or one."""
    from dhhpc.batch import find_job, scheduler_for

    record = find_job(identifier)
    check_task(record, task)
    scheduler_for(record.scheduler, record.site).cancel(record, task)
    which = "" if task is None else f"task {task} of "
    print(f"cancelled {which}job {record.id} ({record.name})")


def logs(
    identifier: Identifier,
    task: Task = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what it goes on to write, until the job is over.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(help="Of each log only so many lines, the last ones.", min=0)
    ] = None,
) -> None:
    """Print what a job has written so far; of an array all tasks, each under its number.

    With --follow the tasks' lines come as they are written, each behind its number. A job that was queued
    again goes on in the same log.
    """
    import shutil
    import sys

    from dhhpc.batch import find_job, last_lines, scheduler_for
    from dhhpc.errors import DhhpcError

    record = find_job(identifier)
    check_task(record, task)
    if follow:
        follow_logs(record, task, tail)
        return
    chosen = record.logs if task is None else [record.logs[task]]
    written = [path for path in chosen if path.is_file()]
    if not written:
        state = scheduler_for(record.scheduler, record.site).status(record).state
        raise DhhpcError(f"{chosen[0]}: nothing written yet; job {record.id} is {state}")
    for path in written:
        if len(chosen) > 1:
            print(f"== task {record.logs.index(path)}", flush=True)
        if tail is not None:
            print("\n".join(last_lines(path, tail)))
            continue
        with open(path, encoding="utf-8", errors="replace") as log:
            shutil.copyfileobj(log, sys.stdout)


def follow_logs(record: JobRecord, task: int | None, tail: int | None) -> None:
    """Print logs until the job is over, or Ctrl-C."""
    import sys

    from dhhpc.batch import follow

    tasks: list[int | None] = [task] if record.tasks is None or task is not None else [*range(record.tasks)]

    def show(number: int | None, line: str) -> None:
        print(line if len(tasks) == 1 else f"task {number}: {line}", flush=True)

    try:
        status = follow(record, tasks, tail, show)
    except KeyboardInterrupt:
        print(f"\ndhhpc: job {record.id} goes on; `dhhpc jobs cancel {record.id}` ends it", file=sys.stderr)
        raise typer.Exit(130) from None
    code = f" ({status.exit_code})" if status.exit_code else ""
    more = "" if status.state == "COMPLETED" else f"; `dhhpc jobs why {record.id}` tells why"
    print(f"dhhpc: job {record.id} is over: {status.state}{code}{more}", file=sys.stderr)


def check_task(record: JobRecord, task: int | None) -> None:
    """Raise DhhpcError unless the job has that task."""
    from dhhpc.errors import DhhpcError

    if task is not None and not 0 <= task < (record.tasks or 0):
        known = f"has the tasks 0 to {record.tasks - 1}" if record.tasks else "is no array: drop --task"
        raise DhhpcError(f"--task {task}: job {record.id} {known}")
