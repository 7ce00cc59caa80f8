"""PBS Pro and OpenPBS through their own commands: qsub, qstat, qdel (PBS Professional Reference Guide).

Jobs are read from the text of `qstat -f` and not from its JSON: older versions have none, and in some later
ones it is not valid for arrays, or holds only the first of several jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, JobStatus, status_of_array
from dhhpc.batch.schedulers.asking import ask_scheduler, refusal
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.errors import DhhpcError

SIGNALLED = 128
IDENTIFIER = re.compile(r"(?P<number>\d+)(?P<array>\[\])?(?:\.\S+)?")
# By the letter of job_state; F and X tell by their exit status.
STATES = {
    "Q": "PENDING",
    "H": "PENDING",
    "W": "PENDING",
    "T": "PENDING",
    "R": "RUNNING",
    "B": "RUNNING",
    "E": "COMPLETING",
    "S": "SUSPENDED",
    "U": "SUSPENDED",
}
# Exit statuses below zero are PBS's own (src/include/job.h of OpenPBS): what ended the job.
ENDS = {
    -14: "NODE_FAIL",
    -20: "NODE_FAIL",
    -26: "OUT_OF_MEMORY",
    -27: "OUT_OF_MEMORY",
    -28: "TIMEOUT",
    -29: "TIMEOUT",
}
# The substates of a job that was deleted and of one that succeeded; the exit status after SIGTERM.
DELETED, SUCCEEDED, TERMINATED = "91", "92", 256 + 15
# qstat says so of jobs that are no more, beside what it knows of others.
FORGOTTEN = re.compile(r"Unknown Job Id|has finished|Job has been moved", re.IGNORECASE)
NO_HISTORY = re.compile(r"job history", re.IGNORECASE)


class PbsScheduler(Scheduler):
    """A PBS Pro or OpenPBS complex that this machine can submit to."""

    def check_usable(self, site: str) -> None:
        for program in ("qsub", "qstat"):
            if shutil.which(program) is None:
                raise DhhpcError(
                    f"--site {site}: this machine has no PBS (no {program} on PATH); log in to the cluster, "
                    f"or use --site local to run here"
                )

    def command(self, script: Path, after: Sequence[str] = (), however: bool = False) -> list[str]:
        # Set to something else, PBS_DPREFIX would have qsub pass over the script's directives.
        kind = "afterany" if however else "afterok"
        waits = ["-W", f"depend={kind}:{':'.join(after)}"] if after else []
        return ["qsub", "-C", "#PBS", *waits, str(script)]

    def submit(
        self,
        script: Path,
        log: Path,
        seconds: int | None,
        after: Sequence[str] = (),
        however: bool = False,
    ) -> str:
        # The script's directives hold its time limit, and it writes its log itself.
        finished = ask_scheduler(self.command(script, after, however), "PBS")
        if finished.returncode != 0:
            raise refusal("qsub", finished)
        # A site's hooks may say more before the identifier.
        identifier = (finished.stdout.strip().splitlines() or [""])[-1].strip()
        if not IDENTIFIER.fullmatch(identifier):
            raise DhhpcError(f"qsub answered {identifier!r} in place of a job id; see {script}")
        return identifier

    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        # With the jobs that they wait for, whose end explains theirs.
        wanted = dict.fromkeys(name for job in jobs for name in (job.id, *job.after))
        known = self.read_jobs(list(wanted))
        unknown = JobStatus("UNKNOWN")
        statuses = []
        for job in jobs:
            found = [known.get(number_of(name), unknown) for name in names_of(job)]
            found = [with_parents(status, () if job.however else job.after, known) for status in found]
            statuses.append(found[0] if job.tasks is None else status_of_array(found))
        return statuses

    def cancel(self, job: JobRecord, task: int | None = None) -> None:
        status = self.status(job)
        name = job.id
        if task is not None:
            status, name = status.tasks[task], names_of(job)[task]
        if status.finished:
            raise DhhpcError(f"job {name}: is over already ({status.state}); nothing to cancel")
        finished = ask_scheduler(["qdel", name], "PBS")
        if finished.returncode != 0:
            raise refusal("qdel", finished)

    def canceller(self, job: JobRecord, task: int | None = None) -> str | None:
        return None  # PBS notes it where only its administrators look

    def read_jobs(self, identifiers: list[str]) -> dict[str, JobStatus]:
        """The jobs that PBS knows, by their numbers; subjobs of arrays as NUMBER[INDEX].

        Finished jobs are among them as long as the complex keeps a history of them.

        Raises:
            DhhpcError: the server does not answer.
        """
        if not identifiers:
            return {}
        finished = ask_scheduler(["qstat", "-x", "-f", "-t", *identifiers], "PBS")
        if NO_HISTORY.search(finished.stderr):
            finished = ask_scheduler(["qstat", "-f", "-t", *identifiers], "PBS")
        said = [line for line in finished.stderr.splitlines() if line.strip()]
        if finished.returncode != 0 and not (said and all(map(FORGOTTEN.search, said))):
            raise refusal("qstat", finished)
        return {name: status_of(attributes) for name, attributes in read_attributes(finished.stdout)}


def read_attributes(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    """Each job of `qstat -f`: its number (of a subjob NUMBER[INDEX]) and its attributes."""
    # What is too long for a line goes on behind a tab.
    for block in re.sub(r"\n\t", "", text).split("Job Id:")[1:]:
        first, *lines = block.splitlines()
        pairs = [line.strip().partition(" = ") for line in lines if " = " in line]
        yield number_of(first.strip()), {name: value for name, _, value in pairs}


def status_of(attributes: dict[str, str]) -> JobStatus:
    """Where a job stands, by its attributes."""
    letter = attributes.get("job_state", "")
    code = attributes.get("Exit_status")
    runs = int(attributes.get("run_count", "0"))
    if letter in STATES:
        status = JobStatus(STATES[letter], reason=reason_of(attributes))
    elif letter in "FX":
        status = status_at_end(None if code is None else int(code), attributes.get("substate", ""))
    else:
        return JobStatus("UNKNOWN")
    if status.state == "PENDING":
        return replace(status, restarts=runs, starts=expected_start(attributes))
    hosts = re.findall(r"(?:^|\+)([^/+]+)/", attributes.get("exec_host", ""))
    return replace(status, restarts=max(0, runs - 1), nodes=",".join(dict.fromkeys(hosts)))


def status_at_end(code: int | None, substate: str) -> JobStatus:
    """How a job has ended.

    Args:
        code: its exit status: its script's, 128 or 256 more than a signal's number, or PBS's own below 0;
            None if it never ran, and of some subjobs.
        substate: PBS's own, as a number.
    """
    if code is None:
        return JobStatus("COMPLETED", 0) if substate == SUCCEEDED else JobStatus("CANCELLED")
    if code < 0:
        return JobStatus(ENDS.get(code, "FAILED"), reason=f"PBS {code}")
    state = "CANCELLED" if substate == DELETED or code == TERMINATED else "FAILED" if code else "COMPLETED"
    return JobStatus(state, code - SIGNALLED if code > 256 else code)


def reason_of(attributes: dict[str, str]) -> str:
    """Why a job does not run: that it waits for another or is held, or the scheduler's comment."""
    held = attributes.get("Hold_Types", "n")
    if attributes.get("job_state") != "H":
        return attributes.get("comment", "")
    if "depend" in attributes and "u" not in held:
        return "Dependency"
    return attributes.get("comment") or f"Hold_Types {held}"


def with_parents(status: JobStatus, after: Sequence[str], known: dict[str, JobStatus]) -> JobStatus:
    """`status` with the jobs that it waits or waited for, and whether they have failed."""
    parents = {name: known.get(number_of(name), JobStatus("UNKNOWN")) for name in after}
    ends = {
        name: "failed" if parent.finished and parent.state not in ("COMPLETED", "UNKNOWN") else "unfulfilled"
        for name, parent in parents.items()
        if parent.state != "COMPLETED"
    }
    if not ends or status.state not in ("PENDING", "CANCELLED"):
        return status
    # PBS deletes a job that waits for one which has failed.
    by_parent = status.state == "CANCELLED" and status.exit_code is None and "failed" in ends.values()
    return replace(
        status,
        reason="Dependency" if by_parent else status.reason,
        dependency=",".join(f"afterok:{name}({how})" for name, how in ends.items()),
    )


def expected_start(attributes: dict[str, str]) -> str:
    with contextlib.suppress(KeyError, ValueError):
        start = datetime.strptime(attributes["estimated.start_time"], "%a %b %d %H:%M:%S %Y")
        return start.isoformat()
    return ""


def names_of(job: JobRecord) -> list[str]:
    """What PBS calls a job, or each subjob of an array; one of a single part is a plain job."""
    if job.tasks is None or "[]" not in job.id:
        return [job.id]
    return [job.id.replace("[]", f"[{task}]") for task in range(job.tasks)]


def number_of(identifier: str) -> str:
    """An identifier without its server, which may be written short or long."""
    return identifier.split(".")[0]


def pbs_version() -> str | None:
    """The version of the PBS of this machine, None if it has none or does not tell."""
    if shutil.which("qstat", path=os.environ.get("PATH")) is None:
        return None
    match = re.search(r"pbs_version\s*=\s*(\S+)", ask_scheduler(["qstat", "--version"], "PBS").stdout)
    return match[1] if match else None
