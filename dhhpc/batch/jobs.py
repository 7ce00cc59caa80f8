"""Records of the jobs a user has submitted: a numbered folder each, with script, log and `job.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_error, write_json

RECORD = "job.json"
# The states in which a job will still change by itself, in SLURM's words (squeue(1), "Job State Codes").
UNFINISHED = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "STOPPED",
        "REQUEUED",
        "RESIZING",
        "STAGE_OUT",
    ]
)


@dataclass(frozen=True)
class JobRecord:
    """One submitted job.

    Attributes:
        id: what its scheduler calls it.
        name, site, scheduler: as submitted.
        folder: the absolute path of its record folder.
        log: the absolute path of the file with its output; of an array `task_log` tells those of the tasks.
        arguments: the command line after `dhhpc`.
        nodes, ranks: how many; of each task.
        submitted: the time, ISO 8601 with its offset from UTC.
        tasks: how many an array has; None for a single job.
        after: ids of the jobs that it waits for.
        however: they need only be over, whatever became of them.
    """

    id: str
    name: str
    site: str
    scheduler: str
    folder: str
    log: str
    arguments: list[str]
    nodes: int
    ranks: int
    submitted: str
    tasks: int | None = None
    after: list[str] = field(default_factory=list)
    however: bool = False

    @property
    def script(self) -> Path:
        return Path(self.folder) / "job.sh"

    @property
    def logs(self) -> list[Path]:
        """The file with the output, or those of an array's tasks in order."""
        if self.tasks is None:
            return [Path(self.log)]
        return [task_log(Path(self.log), str(task)) for task in range(self.tasks)]

    def write(self) -> None:
        write_json(Path(self.folder) / RECORD, asdict(self))


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands.

    Attributes:
        state: in SLURM's words; UNKNOWN when its scheduler has forgotten it.
        exit_code: once it is over; 128 plus the number of the signal that ended it.
        tasks: of an array, where each task stands.
        reason: why it is pending or how it ended, as one of SLURM's words; of PBS its comment, or "PBS -3"
            for an exit status of its own.
        restarts: how often it was queued again.
        nodes: those it runs or ran on, as its scheduler writes them.
        starts: while it is pending, when its scheduler expects it to start (ISO 8601, local time).
        dependency: what it waits for, as SLURM writes it.

    What lies behind `tasks` tells more, but does not make two statuses differ.
    """

    state: str
    exit_code: int | None = None
    tasks: tuple[JobStatus, ...] = ()
    reason: str = field(default="", compare=False)
    restarts: int = field(default=0, compare=False)
    nodes: str = field(default="", compare=False)
    starts: str = field(default="", compare=False)
    dependency: str = field(default="", compare=False)

    @property
    def finished(self) -> bool:
        return self.state not in UNFINISHED


def status_of_array(tasks: Sequence[JobStatus]) -> JobStatus:
    """An array as a whole: over when all its tasks are, completed when all of them are completed.

    Of tasks that still change, a running one stands for all; of tasks that are over, the worst: failed before
    any other end, and what is unknown before completed.
    """

    def urgency(task: JobStatus) -> int:
        order = ("RUNNING", "COMPLETING", "PENDING") if not task.finished else ("FAILED",)
        if task.state in order:
            return order.index(task.state)
        return {"UNKNOWN": 2, "COMPLETED": 3}.get(task.state, 1)

    changing = [task for task in tasks if not task.finished]
    first = min(changing or tasks, key=urgency)
    restarts = sum(task.restarts for task in tasks)
    return replace(
        first, exit_code=None if changing else first.exit_code, tasks=tuple(tasks), restarts=restarts
    )


def task_log(log: Path, task: str) -> Path:
    """The log of one task of an array: job-3.log for job.log."""
    return log.with_name(f"{log.stem}-{task}{log.suffix}")


def words_of_pbs(log: Path) -> Path:
    """Where PBS leaves what it has to say of a job with that log, such as why it was killed."""
    return log.with_suffix(".pbs")


def state_folder() -> Path:
    """Where dhhpc keeps what it must remember for the user (XDG base directories, "state")."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "dhhpc"


def records_folder() -> Path:
    """The user's folder of job records."""
    return state_folder() / "jobs"


def new_job_folder() -> Path:
    """Make the next numbered record folder.

    Raises:
        DhhpcError: it cannot be made.
    """
    parent = records_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number)
            except FileExistsError:  # another submission took it
                number += 1
    except OSError as error:
        raise write_error(parent, error) from error


def job_records() -> Iterator[JobRecord]:
    """The user's jobs, newest first. Folders without a record, of submissions cut short, are passed over."""
    parent = records_folder()
    folders = [path for path in parent.glob("*") if path.name.isdigit() and (path / RECORD).is_file()]
    for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
        yield read_record(folder)


def read_record(folder: Path) -> JobRecord:
    value = read_json(folder / RECORD)
    try:
        return JobRecord(**value)
    except TypeError:
        known = ", ".join(value) if isinstance(value, dict) else json.dumps(value)
        raise DhhpcError(
            f"{folder / RECORD}: is no job record (it holds {known}); remove that folder"
        ) from None


def find_job(identifier: str) -> JobRecord:
    """The newest job of that id: a new cluster may hand out ids anew.

    Of an id of PBS, such as 12[].pbs01, the number is enough.

    Raises:
        DhhpcError: there is none.
    """
    for record in job_records():
        if identifier in (record.id, record.id.split(".")[0].removesuffix("[]")):
            return record
    raise DhhpcError(
        f"{identifier}: no such job in {records_folder()}; `dhhpc jobs list` shows the known ones"
    )
