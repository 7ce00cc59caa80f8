"""`dhhpc submit train --pipeline`: from images to a report in one chain of jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dhhpc.cli.job_options import JobOptions, as_document, tell

if TYPE_CHECKING:
    from dhhpc.batch import JobRecord, JobRequest

DOCUMENT = "preprocess.yml"
# A report is drawn by one process.
ONE = {"nodes": 1, "ranks_per_node": 1}


def submit_pipeline(
    job: JobOptions, training: JobRequest, experiment: Path, preprocessing: Path | None
) -> list[JobRecord]:
    """Submit each job of the chain behind the one before it; or print all, for a dry run.

    Args:
        training: the job that trains; the others have its nodes and time limit.
        preprocessing: the document of the first job; by default preprocess.yml beside the experiment, and if
            there is none, the chain begins with training.

    Raises:
        DhhpcError: a job cannot be submitted; those before it are cancelled.
    """
    requests = chain(job, training, experiment, preprocessing)
    records = submit_all(job, requests, lambda earlier: (earlier[-1].id,) if earlier else ())
    if records and not job.as_json:
        print(f"the report will be {requests[-1].arguments[-1]}/report.html")
    return records


def submit_all(
    job: JobOptions, requests: list[JobRequest], behind: Callable[[list[JobRecord]], tuple[str, ...]]
) -> list[JobRecord]:
    """Submit jobs of which later ones wait for earlier ones, and tell of them; or print all, for a dry run.

    Args:
        behind: from the jobs that are submitted, the ids that the next one waits for; where it waits for
            none, those that the user named stand.

    Raises:
        DhhpcError: a job cannot be submitted; those before it are cancelled.
    """
    from dhhpc.batch import read_site, scheduler_for, submit_job

    if job.dry_run:
        # Nobody knows yet the numbers of the jobs that each would wait for.
        job.show([requests[0], *(replace(request, after=("JOB",)) for request in requests[1:])])
        return []
    site = read_site(job.site, job.settings or [])
    records: list[JobRecord] = []
    try:
        for request in requests:
            found = behind(records)
            # What the user waits for must have completed.
            waits = replace(request, after=found) if found else replace(request, however=False)
            records.append(submit_job(waits, site))
    except BaseException:
        for record in reversed(records):
            scheduler_for(record.scheduler, record.site).cancel(record)
        raise
    if job.as_json:
        print(json.dumps([as_document(record) for record in records]))
    else:
        for record in records:
            tell(record)
    return records


def chain(
    job: JobOptions, training: JobRequest, experiment: Path, preprocessing: Path | None
) -> list[JobRequest]:
    """The jobs in their order."""
    from dhhpc.errors import DhhpcError

    moved = [word for word in training.arguments[2:] if re.match(r"--output\b|(--set=)?(output|name)=", word)]
    if moved:
        raise DhhpcError(
            f"{moved[0]}: later jobs of --pipeline look for the run where the experiment says; write it there"
        )
    beside = experiment.parent / DOCUMENT
    document = preprocessing or (beside if beside.is_file() else None)
    if document is not None and not document.is_file():
        raise DhhpcError(f"--preprocess {document}: no such file; check the path")
    run = run_folder(experiment)
    name, stage = training.name, training.stage
    first = (
        [
            job.request(
                "preprocess", ["preprocess", str(document.absolute())], name, name=f"{name}: preprocess"
            )
        ]
        if document is not None
        else []
    )
    return [
        *first,
        replace(training, name=f"{name}: train"),
        job.request(
            "evaluate", ["evaluate", str(run), "--split", "test"], name, name=f"{name}: evaluate", stage=stage
        ),
        job.request("command", ["runs", "report", str(run)], name, name=f"{name}: report", **ONE),
    ]


def run_folder(experiment: Path) -> Path:
    """Where the run of an experiment goes, which its file tells.

    Raises:
        DhhpcError: the file is no experiment.
    """
    from dhhpc.training import read_experiment

    return read_experiment(experiment).folder
