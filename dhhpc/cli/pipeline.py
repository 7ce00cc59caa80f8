"""`dhhpc submit train --pipeline`: from images to a report in one chain of jobs."""

from __future__ import annotations

import json
import re
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
    from dhhpc.batch import read_site, scheduler_for, submit_job

    requests = chain(job, training, experiment, preprocessing)
    if job.dry_run:
        # Nobody knows yet the number of the job that each would wait for.
        job.show([requests[0], *(replace(request, after=("JOB",)) for request in requests[1:])])
        return []
    site = read_site(job.site, job.settings or [])
    records: list[JobRecord] = []
    try:
        for request in requests:
            behind = (records[-1].id,) if records else request.after
            records.append(submit_job(replace(request, after=behind), site))
    except BaseException:
        for record in reversed(records):
            scheduler_for(record.scheduler, record.site).cancel(record)
        raise
    if job.as_json:
        print(json.dumps([as_document(record) for record in records]))
    else:
        for record in records:
            tell(record)
        print(f"the report will be {requests[-1].arguments[-1]}/report.html")
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
