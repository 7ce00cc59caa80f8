"""`dhhpc submit scale`: each point of a study as a job, and one that gathers them into the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dhhpc.cli.job_options import JobOptions
from dhhpc.cli.pipeline import ONE, submit_all

if TYPE_CHECKING:
    from dhhpc.batch import JobRecord


def submit_study(job: JobOptions, study: Path, output: Path | None, together: bool) -> None:
    """Submit the points that are not finished, one after another, and the report behind all of them.

    Args:
        together: points may run at the same time.

    Raises:
        DhhpcError: the study or a job cannot be had; jobs that were submitted are cancelled.
    """
    from dhhpc.batch import read_site
    from dhhpc.errors import DhhpcError
    from dhhpc.scaling.studies.jobs import gathering, study_jobs
    from dhhpc.scaling.studies.placement import room_at
    from dhhpc.scaling.studies.study import read_study

    if job.nodes != 1:
        raise DhhpcError(
            f"--nodes {job.nodes}: each point has the nodes that its ranks fill, or that the study says; "
            f"give --ranks-per-node, or `nodes` in the study, or --one-job for all points in so many nodes"
        )
    name = read_study(study)[0].name
    folder = (output or Path(f"scaling-{name}")).absolute()
    room = room_at(read_site(job.site, job.settings or []), job.partition, job.qos)
    jobs = study_jobs(study, folder, job.ranks_per_node, room, job.threads)
    if jobs.told is not None:
        print(jobs.told, file=sys.stderr)
    # Times of a run that was stopped and goes on would not compare: no point is queued again.
    requests = [
        job.request(
            "train",
            list(point.arguments),
            name,
            name=f"{name}: {Path(point.task.run).name}",
            nodes=point.nodes,
            ranks_per_node=point.ranks_per_node,
            requeues=0,
            however=True,
        )
        for point in jobs.points
    ]
    gather = list(gathering(study, folder, jobs.left_out))
    report = job.request("command", gather, name, name=f"{name}: report", however=bool(requests), **ONE)

    def behind(records: list[JobRecord]) -> tuple[str, ...]:
        if len(records) == len(requests):
            return tuple(record.id for record in records)
        return () if together or not records else (records[-1].id,)

    if submit_all(job, [*requests, report], behind) and not job.as_json:
        print(f"the report will be {folder}/report.html")
