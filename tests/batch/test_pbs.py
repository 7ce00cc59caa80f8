"""Jobs of PBS Pro on a stand-in for its commands, which runs their scripts; what they say by hand.

No real PBS has been asked: what the stand-in does is in `pbs_stand_in.py`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, JobStatus, explain, find_job, scheduler_for, submit_job
from dhhpc.batch.job_log import read_last_words
from dhhpc.batch.pbs_reasons import explain_code, explain_comment
from dhhpc.batch.processes import wait_until
from dhhpc.batch.schedulers.pbs import read_attributes, status_at_end, status_of
from dhhpc.batch.site import Site
from dhhpc.batch.site_check import check_site
from dhhpc.doctor import scheduler as doctor
from dhhpc.errors import DhhpcError

PBS = scheduler_for("pbs")
TRAIN = {"kind": "train", "arguments": ("train", "/e.yml")}


@pytest.fixture
def start(pbs: Path, tmp_path: Path, request_of) -> Callable[..., JobRecord]:
    """Submits `program`, a shell script that stands for the Python of the site."""

    def submit_program(program: str, **changes: object) -> JobRecord:
        path = tmp_path / f"program-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/bash\n{program}\n")
        path.chmod(0o755)
        site = Site(name="here", scheduler="pbs", launcher="env", python=str(path))
        return submit_job(request_of(threads=2, **changes), site)

    return submit_program


def dhhpc(*arguments: object) -> str:
    command = [sys.executable, "-m", "dhhpc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def log_of(job: JobRecord) -> str:
    return Path(job.log).read_text()


def lines_of(log: Path) -> list[str]:
    """Of a job that was told to end, without what bash says of its sleep."""
    return [line for line in log.read_text().splitlines() if not re.search("Terminated|Killed", line)]


@pytest.mark.parametrize(
    ("code", "substate", "state", "exit_code"),
    [
        (0, "92", "COMPLETED", 0),
        (1, "93", "FAILED", 1),
        (75, "93", "FAILED", 75),
        (137, "93", "FAILED", 128 + 9),
        (256 + 9, "93", "FAILED", 128 + 9),
        (256 + 15, "93", "CANCELLED", 128 + 15),
        (75, "91", "CANCELLED", 75),
        (None, "91", "CANCELLED", None),
        (None, "92", "COMPLETED", 0),
        (None, "93", "CANCELLED", None),
        (-29, "93", "TIMEOUT", None),
        (-27, "93", "OUT_OF_MEMORY", None),
        (-20, "93", "NODE_FAIL", None),
        (-1, "93", "FAILED", None),
    ],
)
def test_how_a_job_has_ended(code: int | None, substate: str, state: str, exit_code: int | None) -> None:
    assert status_at_end(code, substate) == JobStatus(state, exit_code)


def test_what_qstat_shows_of_jobs() -> None:
    text = (
        "Job Id: 12.pbs01\n    Job_Name = lungs\n    job_state = Q\n    run_count = 1\n"
        "    comment = Not Running: Insufficient amount of\n\t resource: ncpus\n"
        "    estimated.start_time = Tue Feb 14 02:10:01 2023\n\n"
        "Job Id: 13[4].pbs01\n    job_state = R\n    run_count = 3\n"
        "    exec_host = n1/0*4+n1/1*4+n\n\t7/0*4\n"
        "Job Id: 14.pbs01\n    job_state = H\n    Hold_Types = u\n"
        "Job Id: 15.pbs01\n    job_state = M\n"
    )
    found = {name: status_of(attributes) for name, attributes in read_attributes(text)}
    queued, running, held, moved = (found[name] for name in ("12", "13[4]", "14", "15"))
    assert (queued.state, queued.restarts, queued.starts) == ("PENDING", 1, "2023-02-14T02:10:01")
    assert queued.reason == "Not Running: Insufficient amount of resource: ncpus"
    assert (running.state, running.restarts, running.nodes) == ("RUNNING", 2, "n1,n7")
    assert (held.state, held.reason, moved.state) == ("PENDING", "Hold_Types u", "UNKNOWN")


@pytest.mark.parametrize(
    ("comment", "meaning", "mend"),
    [
        ("", "has not looked", "nothing to mend"),
        ("Dependency", "another job", "nothing to mend"),
        ("Hold_Types u", "held by its user", "qrls 12.pbs01"),
        ("Hold_Types s", "by an administrator or by PBS", "support"),
        ("Not Running: Insufficient amount of resource: ncpus (R: 8 A: 2 T: 8)", "are free", "fewer nodes"),
        ("Not Running: User has reached queue gpu running job limit.", "a limit", "starts by itself"),
        ("Not Running: Queue workq is not started", "starts no jobs", "--partition"),
        ("Not Running: Job would cross dedicated time boundary", "maintenance", "shorter --time"),
        ("Not Running: Node is in an ineligible state: offline", "offline", "pbsnodes"),
        ("Can Never Run: Insufficient amount of resource: ngpus", "can ever hold it", "fewer --nodes"),
        ("job held, too many failed attempts to run", "too often", "qrls 12.pbs01"),
        ("moon phase", "PBS says: moon phase", "documentation"),
    ],
)
def test_why_a_job_waits(comment: str, meaning: str, mend: str) -> None:
    told = explain_comment(comment, "12.pbs01")
    assert (meaning in told[0], mend in told[1]) == (True, True), told


def test_a_job_from_submission_to_its_end(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBS_DPREFIX", "#OTHER")  # qsub would pass over the script's directives
    go = tmp_path / "go"
    wait = f"until [[ -e {go} ]]; do sleep 0.05; done"
    job = start(f'echo "$@ ${{DHHPC_EXPECTED_RANKS}}"; {wait}; touch {tmp_path}/made', name="a: b")
    behind = start(f"test -e {tmp_path}/made && exit 4", after=("100",))
    assert behind.after == [job.id]
    never = start("echo started", after=(behind.id,))
    assert wait_until(lambda: PBS.status(job).state == "RUNNING", 60)
    assert job.id == "100.pbs01.cluster"
    # Its log is there while it runs.
    assert wait_until(lambda: Path(job.log).exists() and log_of(job) == "-m dhhpc site list 1\n", 60)
    assert PBS.status(job).nodes == "n1,n2"
    assert wait_until(lambda: PBS.status(behind).reason == "Dependency", 60)
    (found,) = explain(behind)
    assert found.summary == f"it is pending: it waits for another job (job {job.id} a: b is not over)"
    go.touch()
    assert PBS.wait(never, timeout=60) == JobStatus("CANCELLED")
    assert [PBS.status(each) for each in (job, behind)] == [
        JobStatus("COMPLETED", 0),
        JobStatus("FAILED", 4),
    ]
    (found,) = explain(never)
    assert (found.cause, found.next) == ("parent", f"dhhpc jobs why {behind.id}")
    assert f"job {behind.id} job has not ended as it should" in found.summary
    (found,) = explain(behind)
    assert found.next == "dhhpc submit site list --site here --threads 2 --time 00:01:00 --resume"
    with pytest.raises(DhhpcError, match="is over already"):
        PBS.cancel(job)
    with pytest.raises(DhhpcError, match="qsub: Unknown queue"):
        start("true", partition="no-such-queue")
    # Where the server keeps no history, the log is all that is left to know.
    monkeypatch.setenv("PBS_STAND_IN_HISTORY", "0")
    assert PBS.status(job) == JobStatus("UNKNOWN")
    assert explain(job)[0].source == "log"


def test_the_time_limit_is_told_before_it_comes(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is warned, stops and is queued again; one where users may not do so; one that is deaf."""
    begin = 'trap "echo warned; exit 75" USR1; echo "$@"'
    stops = f'{begin}; [[ "$*" == *--resume ]] || while :; do sleep 0.1; done'
    again = start(stops, seconds=8, requeues=2, **TRAIN)
    monkeypatch.setenv("PBS_STAND_IN_QRERUN", "0")
    refused = start(stops, seconds=8, requeues=2, **TRAIN)
    deaf = start("trap : USR1; while :; do sleep 0.1; done", seconds=5, **TRAIN)
    assert PBS.wait(again, timeout=60) == JobStatus("COMPLETED", 0), log_of(again)
    assert lines_of(Path(again.log)) == [
        "-m dhhpc train /e.yml",
        "warned",
        "job: the ranks ended with exit code 75, to be queued again: 1 of 2",
        "-m dhhpc train /e.yml --resume",
    ]
    assert PBS.status(again).restarts == 1
    assert PBS.wait(refused, timeout=60) == JobStatus("FAILED", 75)
    assert "job: PBS does not queue it again" in log_of(refused)
    (found,) = explain(refused)
    assert (found.cause, found.next[-9:]) == ("stopped", " --resume")
    assert PBS.wait(deaf, timeout=60) == JobStatus("TIMEOUT")
    (found,) = explain(deaf)
    assert (found.cause, found.summary) == ("time limit", "it ran into its time limit of 00:00:05")
    # pbs_mom's words, which lie beside the log, tell it too.
    words = read_last_words(Path(deaf.log))
    assert words is not None
    assert words.cause == "time limit"


def test_an_array_with_at_most_two_at_once_and_one_cancelled(start, tmp_path: Path) -> None:
    # PBS tells every process and the script tells this one: the second time may come amid the first.
    program = (
        f"echo $PBS_ARRAY_INDEX $@; touch {tmp_path}/on-$PBS_ARRAY_INDEX\n"
        f"ls {tmp_path} | grep -c ^on- >> {tmp_path}/seen\n"
        "trap 'trap \"\" TERM; echo told; exit 75' TERM\n"
        "[[ $PBS_ARRAY_INDEX != 1 ]] || while :; do sleep 0.1; done\n"
        f"sleep 0.2; rm {tmp_path}/on-$PBS_ARRAY_INDEX; exit $((PBS_ARRAY_INDEX == 3 ? 3 : 0))"
    )
    job = start(program, tasks=5, at_once=2, **TRAIN)
    assert job.id == "100[].pbs01.cluster"
    ends = [0, 2, 3, 4]
    assert wait_until(lambda: all(PBS.status(job).tasks[task].finished for task in ends), 60)
    dhhpc("jobs", "cancel", job.id, "--task", 1)
    assert wait_until(lambda: PBS.status(job).finished, 60)
    fates = json.loads(dhhpc("jobs", "why", job.id, "--json"))["fates"]
    assert [(fate["tasks"], fate["cause"]) for fate in fates] == [
        ([0, 2, 4], "completed"),
        ([1], "cancelled"),
        ([3], "exit code"),
    ]
    assert max(map(int, (tmp_path / "seen").read_text().split())) == 2
    assert lines_of(job.logs[1]) == ["1 -m dhhpc train /e.yml --member 1", "told"]
    # PBS makes no array of one part.
    single = start("echo $@", tasks=1, **TRAIN)
    assert PBS.wait(single, timeout=60) == JobStatus("COMPLETED", 0, (JobStatus("COMPLETED", 0),))
    assert single.logs[0].read_text() == "-m dhhpc train /e.yml --member 0\n"


def test_a_pending_job_is_explained_and_cancelled(start, monkeypatch: pytest.MonkeyPatch) -> None:
    comment = "Not Running: Insufficient amount of resource: ncpus (R: 2 A: 0 T: 8)"
    monkeypatch.setenv("PBS_STAND_IN_COMMENT", comment)
    job = start("true")
    assert wait_until(lambda: PBS.status(job).reason == comment, 60)
    shown = dhhpc("jobs", "why", job.id)
    assert shown.startswith(
        f"job {job.id} job: PENDING ({comment})\n  it is pending: it waits until enough"
    ), shown
    assert "PENDING" in dhhpc("jobs", "list")
    dhhpc("jobs", "cancel", job.id)
    assert PBS.wait(job, timeout=60) == JobStatus("CANCELLED")
    forgotten = replace(job, id="4000.pbs01")
    assert PBS.statuses([forgotten, job]) == [JobStatus("UNKNOWN"), JobStatus("CANCELLED")]
    assert find_job("100") == find_job("100.pbs01.cluster") == job  # people leave the server out


def test_its_version_is_told(pbs: Path) -> None:
    site = Site(name="here", scheduler="pbs", launcher="env", python=sys.executable)
    told = [(each.subject, each.text) for each in check_site(site)]
    assert told[0] == ("scheduler", "PBS 23.06.06 answers")
    assert doctor.pbs().text == "PBS 23.06.06 answers"


def test_exit_statuses_of_pbs_in_words() -> None:
    assert explain_code("PBS -2") == "PBS could not start it, after its files were there"
    assert explain_code("PBS -99") == "PBS ended it, and gives exit status -99 for that"
    assert explain_code("Resources") is None
