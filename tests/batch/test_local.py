"""Jobs in the background of this machine, run for real."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, JobStatus, find_job, job_records, read_site, scheduler_for, submit_job
from dhhpc.batch.site import Site
from dhhpc.errors import DhhpcError

LOCAL = scheduler_for("local")


@pytest.fixture
def start(tmp_path: Path, request_of) -> Callable[..., JobRecord]:
    """Submits `program`, a shell script that stands for the Python of the site."""

    def submit_program(program: str, **changes: object) -> JobRecord:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/bash\n{program}\n")
        path.chmod(0o755)
        site = Site(name="here", scheduler="local", python=str(path))
        return submit_job(request_of(**changes), site)

    return submit_program


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_runs_and_leaves_its_log(start, request_of) -> None:
    job = start('echo "$@"; echo threads $OMP_NUM_THREADS; echo wrong >&2', threads=1, name="a 'b' $(c)")
    status = LOCAL.wait(job, timeout=10)
    assert (status.state, status.exit_code) == ("COMPLETED", 0)
    assert Path(job.log).read_text() == "-m dhhpc site list\nthreads 1\nwrong\n"
    assert find_job(job.id) == job
    assert job.name == "a 'b' $(c)"


def test_dhhpc_itself_runs(request_of) -> None:
    job = submit_job(request_of(), read_site("local"))
    assert LOCAL.wait(job, timeout=30).state == "COMPLETED"
    assert "virtual-cluster" in Path(job.log).read_text()


def test_a_failing_exit_code_is_reported(start) -> None:
    status = LOCAL.wait(start("exit 3"), timeout=10)
    assert (status.state, status.exit_code) == ("FAILED", 3)


def test_a_time_limit_ends_the_job(start) -> None:
    status = LOCAL.wait(start("sleep 60", seconds=1), timeout=10)
    assert (status.state, status.exit_code) == ("TIMEOUT", 128 + 15)


def test_cancel_ends_all_processes_of_the_job(start) -> None:
    job = start("sleep 60 & echo $!; wait")
    wait_for(lambda: Path(job.log).read_text().endswith("\n"))
    child = int(Path(job.log).read_text())
    assert LOCAL.status(job).state == "RUNNING"
    assert alive(child)
    LOCAL.cancel(job)
    assert LOCAL.status(job).state == "CANCELLED"
    wait_for(lambda: not alive(child))
    with pytest.raises(DhhpcError, match="is over already"):
        LOCAL.cancel(job)


SAVING = "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.05; done"


def test_a_job_may_end_well_when_cancelled(start) -> None:
    job = start(SAVING)
    wait_for(lambda: "ready" in Path(job.log).read_text())
    LOCAL.cancel(job)
    assert LOCAL.status(job) == JobStatus("CANCELLED", 75)
    assert Path(job.log).read_text() == "ready\nsaved\n"


def test_a_job_can_be_cancelled_before_it_has_begun(start) -> None:
    job = start("sleep 60")
    LOCAL.cancel(job)
    assert LOCAL.status(job) == JobStatus("CANCELLED", 128 + 15)


def test_a_job_may_end_well_at_its_limit(start) -> None:
    job = start(SAVING, seconds=1)
    assert LOCAL.wait(job, timeout=10) == JobStatus("TIMEOUT", 75)
    assert Path(job.log).read_text() == "ready\nsaved\n"


def test_a_job_that_was_killed_outright_has_failed(start) -> None:
    job = start("sleep 60", seconds=None)
    os.killpg(json.loads((Path(job.folder) / "process.json").read_text())["process"], 9)
    status = LOCAL.wait(job, timeout=10)
    assert (status.state, status.exit_code) == ("FAILED", None)


def test_jobs_are_numbered_and_listed_newest_first(start) -> None:
    jobs = [start("exit 0") for _ in range(3)]
    for job in jobs:
        LOCAL.wait(job, timeout=10)
    assert [job.id for job in job_records()] == ["local-3", "local-2", "local-1"]
    with pytest.raises(DhhpcError, match="local-4: no such job"):
        find_job("local-4")


def test_a_refused_request_leaves_nothing_behind(start, home: Path) -> None:
    with pytest.raises(DhhpcError):
        start("exit 0", nodes=2)
    assert not (home / "state").exists()
