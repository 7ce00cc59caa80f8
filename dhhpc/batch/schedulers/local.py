"""Jobs in the background of this machine, for those without a scheduler."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, JobStatus, find_job
from dhhpc.batch.processes import start_time, wait_until
from dhhpc.batch.schedulers import supervisor
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json

SUPERVISE = f"from {supervisor.__name__} import main; main()"


class LocalScheduler(Scheduler):
    """Starts each job under a supervisor of its own; the job's folder tells its process and how it ended."""

    def check_usable(self, site: str) -> None:
        """This machine can always run a job."""

    def command(self, script: Path, after: Sequence[str] = (), however: bool = False) -> list[str]:
        return ["bash", str(script)]

    def submit(
        self,
        script: Path,
        log: Path,
        seconds: int | None,
        after: Sequence[str] = (),
        however: bool = False,
    ) -> str:
        folder = script.parent
        limit = "none" if seconds is None else str(seconds)
        how = supervisor.HOWEVER if however else supervisor.COMPLETED
        parents = [find_job(identifier).folder for identifier in after]
        if parents:
            (folder / supervisor.WAITING).touch()
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, str(script), str(folder), limit, how, *parents],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A signal that comes before the supervisor can take it waits.
                preexec_fn=supervisor.block,
            )
        write_json(folder / supervisor.PROCESS, {"process": process.pid, "started": start_time(process.pid)})
        return f"local-{folder.name}"

    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        return [status_in(Path(job.folder)) for job in jobs]

    def cancel(self, job: JobRecord, task: int | None = None) -> None:
        folder = Path(job.folder)
        process = supervisor.running_process(folder)
        if process is None:
            raise DhhpcError(f"job {job.id}: is over already ({status_in(folder).state}); nothing to cancel")
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        if not wait_until(lambda: supervisor.running_process(folder) is None, supervisor.GRACE + 5):
            raise DhhpcError(f"job {job.id}: does not end; its process is {process}")

    def canceller(self, job: JobRecord, task: int | None = None) -> str | None:
        return None  # nothing but a signal reaches the supervisor


def status_in(folder: Path) -> JobStatus:
    # The process is looked at before the result, which it writes last.
    running = supervisor.running_process(folder) is not None
    if (folder / supervisor.RESULT).exists():
        return JobStatus(**read_json(folder / supervisor.RESULT))
    if running:
        return JobStatus("PENDING" if (folder / supervisor.WAITING).exists() else "RUNNING")
    return JobStatus("FAILED")
