"""What every scheduler can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, JobStatus
from dhhpc.batch.processes import wait_until
from dhhpc.errors import DhhpcError


class Scheduler(ABC):
    """Runs job scripts; one instance speaks for one kind of scheduler on this machine.

    Args:
        site: the name of the site whose jobs it is asked about; where a machine has several clusters of one
            kind, it tells which.
    """

    def __init__(self, site: str = "") -> None:
        self.site = site

    @abstractmethod
    def check_usable(self, site: str) -> None:
        """Raise DhhpcError when this machine cannot submit to the site; names the mend."""

    @abstractmethod
    def command(self, script: Path, after: Sequence[str] = (), however: bool = False) -> list[str]:
        """The command line that submits `script`, for people to read or repeat.

        Args:
            after: ids of jobs that must complete first; if one does not, the job is cancelled.
            however: they need only be over, whatever became of them.
        """

    @abstractmethod
    def submit(
        self,
        script: Path,
        log: Path,
        seconds: int | None,
        after: Sequence[str] = (),
        however: bool = False,
    ) -> str:
        """Submit `script`, whose output goes to `log`, for at most `seconds`, behind the jobs `after`; the
        job's id.

        Raises:
            DhhpcError: the scheduler refuses it, with its own words.
        """

    @abstractmethod
    def statuses(self, jobs: Sequence[JobRecord]) -> list[JobStatus]:
        """Where each of `jobs` stands."""

    @abstractmethod
    def cancel(self, job: JobRecord, task: int | None = None) -> None:
        """End a job that is waiting or running; of an array all tasks, or only `task`.

        Raises:
            DhhpcError: it cannot be ended.
        """

    @abstractmethod
    def canceller(self, job: JobRecord, task: int | None = None) -> str | None:
        """Who has cancelled a job, for people to read; None where nobody knows."""

    def status(self, job: JobRecord) -> JobStatus:
        return self.statuses([job])[0]

    def wait(self, job: JobRecord, timeout: float, poll: float = 0.2) -> JobStatus:
        """Poll until `job` is over; `timeout` and `poll` in seconds.

        Raises:
            DhhpcError: it is not over in time.
        """
        status = JobStatus("PENDING")

        def over() -> bool:
            nonlocal status
            status = self.status(job)
            return status.finished

        if not wait_until(over, timeout, poll):
            raise DhhpcError(f"job {job.id}: still {status.state} after {timeout:g} s; see {job.log}")
        return status
