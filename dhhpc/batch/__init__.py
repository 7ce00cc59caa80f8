"""Batch systems: site configs, job scripts and schedulers. Knows command lines and files, never networks."""

from dhhpc.batch.following import follow, last_lines
from dhhpc.batch.functions import submit
from dhhpc.batch.jobs import JobRecord, JobStatus, find_job, job_records
from dhhpc.batch.request import JobRequest
from dhhpc.batch.schedulers import Scheduler, read_statuses, scheduler_for
from dhhpc.batch.script import render_script
from dhhpc.batch.site import Site
from dhhpc.batch.site_layers import ResolvedSite, read_site, resolve_site, site_files
from dhhpc.batch.submission import preview, submit_job
from dhhpc.batch.why import Explanation, explain

__all__ = [
    "Explanation",
    "JobRecord",
    "JobRequest",
    "JobStatus",
    "ResolvedSite",
    "Scheduler",
    "Site",
    "explain",
    "find_job",
    "follow",
    "job_records",
    "last_lines",
    "preview",
    "read_site",
    "read_statuses",
    "render_script",
    "resolve_site",
    "scheduler_for",
    "site_files",
    "submit",
    "submit_job",
]
