"""Schedulers behind one interface: a class each, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc.batch.jobs import JobRecord, JobStatus
from dhhpc.batch.schedulers.base import Scheduler
from dhhpc.batch.schedulers.local import LocalScheduler
from dhhpc.batch.schedulers.pbs import PbsScheduler
from dhhpc.batch.schedulers.slurm import SlurmScheduler
from dhhpc.errors import DhhpcError

SCHEDULERS: dict[str, type[Scheduler]] = {
    "local": LocalScheduler,
    "slurm": SlurmScheduler,
    "pbs": PbsScheduler,
}


def scheduler_for(name: str, site: str = "") -> Scheduler:
    """The scheduler of that name ("local", "slurm" or "pbs") at `site`, as job records give them."""
    return SCHEDULERS[name](site)


def read_statuses(jobs: Sequence[JobRecord]) -> list[JobStatus]:
    """Where each job stands, each scheduler asked once; UNREACHABLE when one does not answer here."""
    found: dict[int, JobStatus] = {}
    for name, site in {(job.scheduler, job.site) for job in jobs}:
        positions = [
            position for position, job in enumerate(jobs) if (job.scheduler, job.site) == (name, site)
        ]
        try:
            statuses = scheduler_for(name, site).statuses([jobs[position] for position in positions])
        except DhhpcError:
            statuses = [JobStatus("UNREACHABLE")] * len(positions)
        found |= dict(zip(positions, statuses, strict=True))
    return [found[position] for position in range(len(jobs))]


__all__ = [
    "SCHEDULERS",
    "LocalScheduler",
    "PbsScheduler",
    "Scheduler",
    "SlurmScheduler",
    "read_statuses",
    "scheduler_for",
]
