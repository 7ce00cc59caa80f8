"""From a request to a running job with a record."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

from dhhpc.batch.jobs import JobRecord, new_job_folder, records_folder
from dhhpc.batch.request import JobRequest, fit_request
from dhhpc.batch.schedulers import scheduler_for
from dhhpc.batch.script import render_script
from dhhpc.batch.site import Site
from dhhpc.files import write_text

SCRIPT, LOG = "job.sh", "job.log"


def submit(request: JobRequest, site: Site) -> JobRecord:
    """Check `request` against `site`, write its script, submit it and record it.

    Raises:
        DhhpcError: the site cannot hold the request, its scheduler is out of reach, or refuses.
    """
    request = fit_request(request, site)
    scheduler = scheduler_for(site.scheduler, site.name)
    scheduler.check_usable(site.name)
    # Rendered once before anything is written, so that a value no script can hold leaves no folder behind.
    render_script(request, site, records_folder() / LOG)
    folder = new_job_folder()
    script, log = folder / SCRIPT, folder / LOG
    try:
        write_text(script, render_script(request, site, log))
        identifier = scheduler.submit(script, log, request.seconds)
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
    )
    record.write()
    return record


def preview(request: JobRequest, site: Site) -> tuple[str, list[str]]:
    """The script that `submit` would write and the command it would run, with nothing written or started.

    Raises:
        DhhpcError: as `submit`, but for the scheduler, which is not asked.
    """
    request = fit_request(request, site)
    folder: Path = records_folder() / "NUMBER"
    script = render_script(request, site, folder / LOG)
    return script, scheduler_for(site.scheduler, site.name).command(folder / SCRIPT)
