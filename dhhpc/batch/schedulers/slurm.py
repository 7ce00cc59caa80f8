"""SLURM through its own commands: sbatch, squeue, sacct or scontrol, scancel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, JobStatus, status_of_array
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.errors import DhhpcError

SIGNALLED = 128


class SlurmScheduler(Scheduler):
    """A SLURM cluster that this machine can submit to."""

    def check_usable(self, site: str) -> None:
        if shutil.which("sbatch") is None:
            raise DhhpcError(
                f"--site {site}: this machine has no SLURM (no sbatch on PATH); log in to the cluster, "
                f"or use --site local to run here"
            )

    def command(self, script: Path, after: Sequence[str] = ()) -> list[str]:
        waits = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
        return ["sbatch", "--parsable", *waits, str(script)]

    def submit(self, script: Path, log: Path, seconds: int | None, after: Sequence[str] = ()) -> str:
        # The script's directives hold its log and time limit.
        output = run(self.command(script, after))
        # --parsable prints "id" or "id;cluster".
        identifier = output.strip().split(";")[0]
        if not identifier.isdigit():
            raise DhhpcError(f"sbatch answered {output.strip()!r} in place of a job id; see {script}")
        return identifier

    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        known: dict[str, JobStatus] = {}
        for source in (read_queue, read_accounting):
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

    def cancel(self, job: JobRecord) -> None:
        status = self.status(job)
        if status.finished:
            raise DhhpcError(f"job {job.id}: is over already ({status.state}); nothing to cancel")
        run(["scancel", job.id])


def names_of(job: JobRecord) -> list[str]:
    """What SLURM calls a job, or each task of an array."""
    return [job.id] if job.tasks is None else [f"{job.id}_{task}" for task in range(job.tasks)]


def run(command: list[str]) -> str:
    """What `command` prints.

    Raises:
        DhhpcError: it is missing or fails; with the last line it said.
    """
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise DhhpcError(f"{command[0]}: not found on PATH; is SLURM installed on this machine?") from None
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise DhhpcError(f"{command[0]}: {said[-1].removeprefix(f'{command[0]}: ').removeprefix('error: ')}")
    return finished.stdout


def read_queue(identifiers: list[str]) -> dict[str, JobStatus]:
    """The jobs that slurmctld still holds: waiting, running, or over for less than its MinJobAge.

    Tasks of arrays are called ID_TASK.

    Raises:
        DhhpcError: slurmctld does not answer.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(identifiers)}"]
    try:
        output = run([*command, "--Format=ArrayJobID:|,ArrayTaskID:|,State:|,exit_code:|"])
    except DhhpcError as error:
        # A single id that it has forgotten is an error, one among several is just left out.
        if "Invalid job id" in str(error):
            return {}
        raise
    statuses = {}
    for line in output.splitlines():
        identifier, task, state, exit_status = (part.strip() for part in line.split("|")[:4])
        name = f"{identifier}_{task}" if task.isdigit() else identifier
        statuses[name] = status_of(state, os.waitstatus_to_exitcode(int(exit_status)))
    return statuses


def read_accounting(identifiers: list[str]) -> dict[str, JobStatus]:
    """What the accounting database says about jobs; nothing where the cluster has none."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--array"]
    try:
        output = run([*command, f"--jobs={','.join(identifiers)}", "--format=JobID,State,ExitCode"])
    except DhhpcError:
        return {}
    statuses = {}
    for line in output.splitlines():
        identifier, state, exit_code = line.split("|")
        match = re.fullmatch(r"(\d+):(\d+)", exit_code)
        code, signal = (int(match[1]), int(match[2])) if match else (0, 0)
        # "CANCELLED by 1000"
        statuses[identifier] = status_of(state.split(" ")[0], -signal if signal else code)
    return statuses


def status_of(state: str, exit_code: int) -> JobStatus:
    status = JobStatus(state, exit_code if exit_code >= 0 else SIGNALLED - exit_code)
    return status if status.finished else JobStatus(state)
