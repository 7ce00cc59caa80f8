"""The options that all verbs of `dhhpc submit` share: what the job asks of its site."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from dhhpc.batch import JobRecord, JobRequest


@dataclass(frozen=True)
class JobOptions:
    """What a user asks for; each field is an option of the command line."""

    site: Annotated[
        str, typer.Option(help="A site's name (`dhhpc site list`) or the path of its .yml file.")
    ] = "local"
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 1
    ranks_per_node: Annotated[int, typer.Option(help="MPI ranks on each node.")] = 1
    time: Annotated[
        str | None,
        typer.Option(
            help="The time limit: minutes, hours:minutes:seconds or days-hours:minutes:seconds; by default "
            "the partition's `default_time`."
        ),
    ] = None
    name: Annotated[str | None, typer.Option(help="The job's name; the file's by default.")] = None
    partition: Annotated[str | None, typer.Option(help="The partition; the site's first by default.")] = None
    account: Annotated[str | None, typer.Option(help="The account to charge; the site's by default.")] = None
    qos: Annotated[str | None, typer.Option(help="The quality of service; the site's by default.")] = None
    gpus: Annotated[
        int | None, typer.Option(help="Graphics processors of each node; all that it has by default.")
    ] = None
    memory: Annotated[
        float | None, typer.Option(help="Memory of each node in GiB; what the scheduler gives by default.")
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="Cores of each rank; a node's cores shared by its ranks by default.")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value of the site config, see `dhhpc site show`."
        ),
    ] = None
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", help="Start when this job has completed; cancelled if it fails."),
    ] = None
    requeue: Annotated[
        int,
        typer.Option(help="How often it may be queued again when it was stopped with work left."),
    ] = 3
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job script and the command; submit nothing.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False

    def request(self, kind: str, arguments: list[str], default_name: str, **changes: Any) -> JobRequest:
        """The job that runs `dhhpc` with these arguments.

        Args:
            kind: see `JobRequest`.
            default_name: of the job, where the user gave none.
            changes: of what the user asked for.

        Raises:
            DhhpcError: the time limit is none.
        """
        from dhhpc.batch import JobRequest
        from dhhpc.batch.duration import parse_duration
        from dhhpc.errors import DhhpcError

        try:
            seconds = parse_duration(self.time) if self.time is not None else None
        except ValueError as error:
            raise DhhpcError(f"--time {error}") from None
        asked: dict[str, Any] = {
            "name": self.name if self.name is not None else default_name,
            "folder": str(Path.cwd()),
            "nodes": self.nodes,
            "ranks_per_node": self.ranks_per_node,
            "threads": self.threads,
            "seconds": seconds,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gpus": self.gpus,
            "memory_gb": self.memory,
            "after": tuple(self.after or ()),
            "requeues": self.requeue if kind in ("train", "preprocess", "scale") else 0,
        }
        return JobRequest(arguments=tuple(arguments), kind=kind, **asked | changes)

    def submit(self, request: JobRequest) -> JobRecord | None:
        """Submit one job and tell of it, or print what would be submitted."""
        from dhhpc.batch import read_site, submit_job

        if self.dry_run:
            self.show([request])
            return None
        record = submit_job(request, read_site(self.site, self.settings or []))
        if self.as_json:
            print(json.dumps(as_document(record)))
        else:
            tell(record)
        return record

    def show(self, requests: list[JobRequest]) -> None:
        """Print the script of each job and the command that would submit it."""
        from dhhpc.batch import preview, read_site

        site = read_site(self.site, self.settings or [])
        shown = [preview(request, site) for request in requests]
        if self.as_json:
            documents = [{"script": script, "command": command} for script, command in shown]
            print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
            return
        for script, command in shown:
            print(script, end="")
            print(f"\n# submitted by: {shlex.join(command)}")


def with_job_options(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb(..., job: JobOptions)` as a command that takes each of the job's options for itself."""
    hints = get_type_hints(JobOptions, include_extras=True)
    own = {name: kind for name, kind in get_type_hints(verb, include_extras=True).items() if name != "job"}

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        asked = {field.name: given.pop(field.name) for field in fields(JobOptions)}
        verb(**given, job=JobOptions(**asked))

    parameters = [
        parameter.replace(annotation=own[name])
        for name, parameter in inspect.signature(verb).parameters.items()
        if name != "job"
    ]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=kind) for parameter in parameters]
    parameters += [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in fields(JobOptions)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del command.__wrapped__
    return command


def as_document(record: JobRecord) -> dict[str, Any]:
    """A submitted job for programs."""
    return {
        "id": record.id,
        "name": record.name,
        "site": record.site,
        "script": str(record.script),
        "log": record.log if record.tasks is None else None,
        "tasks": [str(log) for log in record.logs] if record.tasks is not None else [],
        "after": record.after,
    }


def tell(record: JobRecord) -> None:
    """A submitted job for people."""
    array = f", an array of {record.tasks} tasks" if record.tasks else ""
    behind = f", after {', '.join(record.after)}" if record.after else ""
    ranks = f"{record.ranks} rank{'s' if record.ranks > 1 else ''}"
    nodes = f"{record.nodes} node{'s' if record.nodes > 1 else ''}"
    print(f"submitted job {record.id} to {record.site}: {record.name}, {ranks} on {nodes}{array}{behind}")
    print(f"  script: {record.script}")
    print("\n".join(f"  log:    {log}" for log in record.logs))
    print(f"  follow it: dhhpc jobs list; dhhpc jobs logs {record.id}; dhhpc jobs cancel {record.id}")
