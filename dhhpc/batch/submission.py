"""From a request to a running job with a record."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from dataclasses import replace
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, find_job, new_job_folder, records_folder
from dhhpc.batch.request import JobRequest, fit_request
from dhhpc.batch.schedulers import scheduler_for
from dhhpc.batch.schedulers.pbs import IDENTIFIER
from dhhpc.batch.script import render_script
from dhhpc.batch.site import Site
from dhhpc.errors import DhhpcError
from dhhpc.files import write_text

SCRIPT, LOG = "job.sh", "job.log"
# The ids of jobs that others may have submitted.
FOREIGN = {"slurm": re.compile(r"\d+"), "pbs": IDENTIFIER}


def submit_job(request: JobRequest, site: Site) -> JobRecord:
    """Check `request` against `site`, write its script, submit it and record it.

    Raises:
        DhhpcError: the site cannot hold the request, its scheduler is out of reach, or refuses.
    """
    request = fit_request(request, site)
    scheduler = scheduler_for(site.scheduler, site.name)
    scheduler.check_usable(site.name)
    request = replace(
        request, after=tuple(check_parent(parent, site, request.however) for parent in request.after)
    )
    if site.scheduler == "slurm":
        check_environment(request)
    # Rendered once before anything is written, so that a value no script can hold leaves no folder behind.
    render_script(request, site, records_folder() / LOG)
    folder = new_job_folder()
    script, log = folder / SCRIPT, folder / LOG
    try:
        write_text(script, render_script(request, site, log))
        identifier = scheduler.submit(script, log, request.seconds, request.after, request.however)
    except BaseException:
        for path in (script, log):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise
    record = JobRecord(
        id=identifier,
        name=request.name,
        site=site.name,
        scheduler=site.scheduler,
        folder=str(folder),
        log=str(log),
        arguments=list(request.arguments),
        nodes=request.nodes,
        ranks=request.ranks,
        submitted=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        tasks=request.tasks,
        after=list(request.after),
        however=request.however,
    )
    record.write()
    return record


def preview(request: JobRequest, site: Site) -> tuple[str, list[str]]:
    """The script that `submit_job` would write and the command it would run, with nothing written or started.

    Raises:
        DhhpcError: as `submit_job`, but for the scheduler, which is not asked.
    """
    request = fit_request(request, site)
    folder: Path = records_folder() / "NUMBER"
    script = render_script(request, site, folder / LOG)
    return script, scheduler_for(site.scheduler, site.name).command(
        folder / SCRIPT, request.after, request.however
    )


def check_parent(identifier: str, site: Site, however: bool) -> str:
    """The whole id of a job to wait for, which is not of another scheduler, nor will it never complete.

    A job that dhhpc did not submit is the scheduler's to know. With `however` it need not complete.

    Raises:
        DhhpcError: names it and why.
    """
    try:
        parent = find_job(identifier)
    except DhhpcError:
        if site.scheduler in FOREIGN and FOREIGN[site.scheduler].fullmatch(identifier):
            return identifier
        raise DhhpcError(
            f"--after {identifier}: no such job; `dhhpc jobs list` shows the known ones"
        ) from None
    if parent.scheduler != site.scheduler:
        raise DhhpcError(
            f"--after {identifier}: is a job of site {parent.site}, which site {site.name} cannot wait for; "
            f"submit both to one site"
        )
    if however:
        return parent.id
    status = scheduler_for(parent.scheduler, parent.site).status(parent)
    if status.finished and status.state not in ("COMPLETED", "UNKNOWN"):
        raise DhhpcError(
            f"--after {identifier}: has ended ({status.state}); `dhhpc jobs why {identifier}` tells why"
        )
    return parent.id


def check_environment(request: JobRequest) -> None:
    """Refuse variables that sbatch would put before what the script says (sbatch(1)).

    Raises:
        DhhpcError: one is set to another value; names it.
    """
    said = {
        "SBATCH_ACCOUNT": request.account,
        "SBATCH_PARTITION": request.partition,
        "SBATCH_QOS": request.qos,
        "SBATCH_JOB_NAME": request.name,
        "SBATCH_TIMELIMIT": None,
        "SBATCH_ARRAY_INX": None,
        "SBATCH_OUTPUT": None,
        "SBATCH_SIGNAL": None,
    }
    for variable, value in said.items():
        if os.environ.get(variable, value) != value:
            raise DhhpcError(
                f"{variable}={os.environ[variable]}: sbatch puts it before the script's own"
                f"{f' {value}' if value else ' value'}; unset it"
            )
