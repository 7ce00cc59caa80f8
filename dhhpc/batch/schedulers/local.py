"""Jobs in the background of this machine, for those without a scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, JobStatus
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.errors import DhhpcError
from dhhpc.files import write_text

# Runs the script and leaves its exit code in a file. Signals to the group end the script; the trap lets this
# shell outlive it and still write the code.
SUPERVISOR = """\
trap : HUP INT TERM USR1
bash -- "$1"
printf '%d\\n' "$?" > "$2.new" && mv -- "$2.new" "$2"
"""
# What timeout(1), which bounds a job's time in its script, exits with.
TIMED_OUT = 124
GRACE = 15.0


class LocalScheduler(Scheduler):
    """Starts job scripts in sessions of their own; a job's folder holds its process, marks and exit code."""

    def check_usable(self, site: str) -> None:
        """This machine can always run a job."""

    def command(self, script: Path) -> list[str]:
        return ["bash", str(script)]

    def submit(self, script: Path, log: Path) -> str:
        folder = script.parent
        with open(log, "ab") as output:
            process = subprocess.Popen(
                ["bash", "-c", SUPERVISOR, "dhhpc-job", str(script), str(folder / "exit-code")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # A process number alone may be handed to another program one day; its start time tells them apart.
        mark = {"process": process.pid, "started": start_time(process.pid)}
        write_text(folder / "process.json", json.dumps(mark) + "\n")
        return f"local-{folder.name}"

    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        return [status_in(Path(job.folder)) for job in jobs]

    def cancel(self, job: JobRecord) -> None:
        folder = Path(job.folder)
        status = status_in(folder)
        group = running_group(folder)
        if status.finished or group is None:
            raise DhhpcError(f"job {job.id}: is over already ({status.state}); nothing to cancel")
        (folder / "cancelled").touch()
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while running_group(folder) is not None:
            if time.monotonic() > end:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
                return
            time.sleep(0.05)


def status_in(folder: Path) -> JobStatus:
    # The process is looked at before its exit code, which it writes last.
    running = running_group(folder) is not None
    try:
        code = int((folder / "exit-code").read_text())
    except FileNotFoundError:
        if running:
            return JobStatus("RUNNING")
        return JobStatus("CANCELLED" if (folder / "cancelled").exists() else "FAILED")
    if (folder / "cancelled").exists():
        return JobStatus("CANCELLED", code)
    return JobStatus({0: "COMPLETED", TIMED_OUT: "TIMEOUT"}.get(code, "FAILED"), code)


def running_group(folder: Path) -> int | None:
    """The process group of the job in `folder` while its supervisor runs."""
    try:
        mark = json.loads((folder / "process.json").read_text())
    except FileNotFoundError:
        return None
    process = int(mark["process"])
    return process if start_time(process) == mark["started"] else None


def start_time(process: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended.

    These are fields 22 and 3 of its stat file (proc(5)).
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses: count from behind the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])
