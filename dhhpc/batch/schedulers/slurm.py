"""SLURM through its own commands: sbatch, squeue, sacct, scancel."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dhhpc.batch.jobs import JobRecord, JobStatus, status_of_array
from dhhpc.batch.schedulers.asking import ask_scheduler, refusal
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.batch.virtual_cluster import find_cluster
from dhhpc.errors import DhhpcError

SIGNALLED = 128
VIRTUAL = "virtual-cluster"
# squeue's fields, and how many characters of each are wanted: without a number it cuts them at 20.
FIELDS = (
    "ArrayJobID:20",
    "ArrayTaskID:20",
    "State:20",
    "exit_code:12",
    "Reason:200",
    "RestartCnt:12",
    "NodeList:200",
    "StartTime:24",
    "Dependency:200",
)


class SlurmScheduler(Scheduler):
    """A SLURM cluster that this machine can submit to."""

    def check_usable(self, site: str) -> None:
        if shutil.which("sbatch") is None:
            raise DhhpcError(
                f"--site {site}: this machine has no SLURM (no sbatch on PATH); log in to the cluster, "
                f"or use --site local to run here"
            )
        self.environment()

    def environment(self) -> dict[str, str]:
        """The variables for SLURM's commands: the user's virtual cluster is found without SLURM_CONF.

        Raises:
            DhhpcError: the virtual cluster is not running.
        """
        if self.site != VIRTUAL or "SLURM_CONF" in os.environ:
            return dict(os.environ)
        cluster = find_cluster()
        if cluster is None:
            raise DhhpcError(
                f"--site {VIRTUAL}: no virtual cluster of yours is running here; start one with "
                f"`dhhpc cluster start`, or use --site local"
            )
        return os.environ | {"SLURM_CONF": cluster.configuration}

    def run(self, command: list[str]) -> str:
        """What `command` prints.

        Raises:
            DhhpcError: it is missing or fails; with the last line it said.
        """
        finished = ask_scheduler(command, "SLURM", self.environment())
        if finished.returncode != 0:
            raise refusal(command[0], finished)
        return finished.stdout

    def command(self, script: Path, after: Sequence[str] = (), however: bool = False) -> list[str]:
        kind = "afterany" if however else "afterok"
        waits = [f"--dependency={kind}:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
        return ["sbatch", "--parsable", *waits, str(script)]

    def submit(
        self,
        script: Path,
        log: Path,
        seconds: int | None,
        after: Sequence[str] = (),
        however: bool = False,
    ) -> str:
        # The script's directives hold its log and time limit.
        output = self.run(self.command(script, after, however))
        # --parsable prints "id" or "id;cluster".
        identifier = output.strip().split(";")[0]
        if not identifier.isdigit():
            raise DhhpcError(f"sbatch answered {output.strip()!r} in place of a job id; see {script}")
        return identifier

    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        known: dict[str, JobStatus] = {}
        for source in (self.read_queue, self.read_accounting):
            missing = [job.id for job in jobs if not known.keys() >= set(names_of(job))]
            if missing:
                known = source(missing) | known
        unknown = JobStatus("UNKNOWN")
        return [
            known.get(job.id, unknown)
            if job.tasks is None
            else status_of_array([known.get(name, unknown) for name in names_of(job)])
            for job in jobs
        ]

    def cancel(self, job: JobRecord, task: int | None = None) -> None:
        status = self.status(job)
        name = job.id
        if task is not None:
            status, name = status.tasks[task], names_of(job)[task]
        if status.finished:
            raise DhhpcError(f"job {name}: is over already ({status.state}); nothing to cancel")
        self.run(["scancel", name])

    def canceller(self, job: JobRecord, task: int | None = None) -> str | None:
        name = job.id if task is None else names_of(job)[task]
        states = {
            each: columns[0]
            for identifier, *columns in self.ask_accounting([name], "State")
            for each in names_in(identifier)
        }
        match = re.search(r"by (\d+)", states.get(name, ""))
        if match is None:
            return None
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(int(match[1])).pw_name
        return f"the user of number {match[1]}"

    def read_queue(self, identifiers: list[str]) -> dict[str, JobStatus]:
        """The jobs that slurmctld still holds: waiting, running, or over for less than its MinJobAge.

        Tasks of arrays are called ID_TASK.

        Raises:
            DhhpcError: slurmctld does not answer.
        """
        command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(identifiers)}"]
        try:
            output = self.run([*command, f"--Format={','.join(f'{field}|' for field in FIELDS)}"])
        except DhhpcError as error:
            # A single id that it has forgotten is an error, one among several is just left out.
            if "Invalid job id" in str(error):
                return {}
            raise
        statuses = {}
        for line in output.splitlines():
            parts = [part.strip() for part in line.split("|")]
            identifier, task, state, exit_status, reason, restarts, nodes, starts, dependency = parts[:9]
            name = f"{identifier}_{task}" if task.isdigit() else identifier
            statuses[name] = status_of(
                state,
                os.waitstatus_to_exitcode(int(exit_status)),
                reason="" if reason == "None" else reason,
                restarts=int(restarts),
                nodes=nodes,
                starts=starts if state == "PENDING" and starts != "N/A" else "",
                dependency="" if dependency == "(null)" else dependency,
            )
        return statuses

    def read_accounting(self, identifiers: list[str]) -> dict[str, JobStatus]:
        """What the accounting database says about jobs; nothing where the cluster has none."""
        statuses: dict[str, JobStatus] = {}
        for identifier, state, exit_code, nodes in self.ask_accounting(
            identifiers, "State,ExitCode,NodeList"
        ):
            match = re.fullmatch(r"(\d+):(\d+)", exit_code)
            code, signal = (int(match[1]), int(match[2])) if match else (0, 0)
            # "CANCELLED by 1000"
            status = status_of(
                state.split(" ")[0],
                -signal if signal else code,
                nodes="" if nodes.startswith("None") else nodes,
            )
            statuses |= dict.fromkeys(names_in(identifier), status)
        return statuses

    def ask_accounting(self, identifiers: list[str], columns: str) -> list[list[str]]:
        """What sacct says about jobs, a list of the id and `columns` each; nothing without accounts."""
        command = ["sacct", "--noheader", "--parsable2", "--allocations"]
        try:
            output = self.run([*command, f"--jobs={','.join(identifiers)}", f"--format=JobID,{columns}"])
        except DhhpcError:
            return []
        return [line.split("|") for line in output.splitlines()]


def names_of(job: JobRecord) -> list[str]:
    """What SLURM calls a job, or each task of an array."""
    return [job.id] if job.tasks is None else [f"{job.id}_{task}" for task in range(job.tasks)]


def names_in(identifier: str) -> list[str]:
    """The jobs of a line of sacct: tasks that have not begun share one, as "12_[2,4-6%2]"."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", identifier)
    if match is None:
        return [identifier]
    names = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        names += [f"{match[1]}_{task}" for task in range(int(first), int(last or first) + 1)]
    return names


def status_of(state: str, exit_code: int, **details: Any) -> JobStatus:
    """A status with an exit code once the job is over; `exit_code` is negative for a signal."""
    status = JobStatus(state, exit_code if exit_code >= 0 else SIGNALLED - exit_code, **details)
    return status if status.finished else replace(status, exit_code=None)
