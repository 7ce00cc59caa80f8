"""What the end of a log tells, on logs as srun, slurmstepd, mpiexec, mpirun, Python and dhhpc write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhhpc.batch.job_log import END_BYTES, last_error_line, last_words, read_last_words
from dhhpc.batch.reasons import explain_reason
from dhhpc.batch.schedulers.slurm import names_in

TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 2, in <module>
    raise ValueError("bad value")
ValueError: bad value
"""
EXCEEDED = "slurmstepd-node1: error: StepId=12.0 exceeded memory limit (311382016 > 104857600), being killed"
MEMORY = f"""\
epoch 1 of 3
{EXCEEDED}
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
slurmstepd-node1: error: Exceeded job memory limit
slurmstepd-node1: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-21T21:10:40 ***
srun: error: node1: task 0: Killed
"""
DEAD = "rank 1 on node2 (pid 7) has died: it was last heard of in epoch 1; all ranks end, go on with --resume"
OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some tasks have been OOM Killed."
ENDED = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T21:10:40"
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'"
NOT_FOUND = "/jobs/1/job.sh: line 12: srun: command not found"
REQUEUED = f"""\
{OOM}
{ENDED} DUE TO JOB REQUEUE ***
srun: error: node1: task 0: Terminated
"""


@pytest.mark.parametrize(
    ("text", "line", "rank", "host", "cause"),
    [
        (
            TRACEBACK + "srun: error: node2: task 1: Exited with exit code 1\n"
            "srun: error: node1: task 0: Terminated\n",
            "ValueError: bad value",
            1,
            "node2",
            None,
        ),
        (
            TRACEBACK.replace("\nValue", "\nsrun: error: node2: task 1: Exited with exit code 1\nValue"),
            "ValueError: bad value",
            1,
            "node2",
            None,
        ),
        (
            "dhhpc: rank 3 on node2: scan.dcm: no such file; check the path\n"
            "srun: error: node2: task 3: Exited with exit code 1\n",
            "scan.dcm: no such file; check the path",
            3,
            "node2",
            None,
        ),
        ("dhhpc: rank 1 on node2: " + TRACEBACK, "ValueError: bad value", 1, "node2", None),
        (
            f"dhhpc: {DEAD}\nsrun: error: node1: task 0: Exited with exit code 75\n",
            DEAD,
            1,
            "node2",
            "rank lost",
        ),
        (
            MEMORY,
            EXCEEDED,
            0,
            "node1",
            "memory",
        ),
        (
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 TiB\n",
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 TiB",
            None,
            None,
            "memory",
        ),
        (BAD_ALLOC, BAD_ALLOC, None, None, "memory"),
        (
            f"{ENDED} DUE TO TIME LIMIT ***\n",
            None,
            None,
            None,
            "time limit",
        ),
        (
            f"{ENDED} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n",
            None,
            None,
            None,
            "node failure",
        ),
        (f"{ENDED} ***\n", None, None, None, "cancelled"),
        (
            "=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   RANK 1 PID 28700 RUNNING AT vm\n"
            "=   KILLED BY SIGNAL: 9 (Killed)\n"
            "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n",
            "Killed",
            1,
            "vm",
            None,
        ),
        (
            "mpirun noticed that process rank 2 with PID 71 on node vm exited on signal 9 (Killed).\n",
            "signal 9 (Killed)",
            2,
            "vm",
            None,
        ),
        (NOT_FOUND, NOT_FOUND, None, None, None),
        ("epoch 1 of 3\nepoch 2 of 3\n", None, None, None, None),
        # A job that was queued again: what ended the attempt before no longer counts.
        (REQUEUED + "starting\n" + TRACEBACK, "ValueError: bad value", None, None, None),
        (REQUEUED, OOM, 0, "node1", "memory"),
    ],
)
def test_last_words(
    text: str, line: str | None, rank: int | None, host: str | None, cause: str | None
) -> None:
    words = last_words(text)
    assert (words.line, words.rank, words.host, words.cause) == (line, rank, host, cause)


def test_amounts_of_memory_and_signals_are_read() -> None:
    assert last_words(MEMORY).memory == (311382016, 104857600)
    assert last_words("TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n").signal == 9


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    assert read_last_words(path) is None
    path.write_text("dhhpc: early\n" + "epoch\n" * END_BYTES + "OSError: late\n")
    assert last_error_line(path) == "OSError: late"
    path.write_text("\n")
    assert read_last_words(path) is None
    assert last_error_line(path) == "it wrote nothing"


@pytest.mark.parametrize(
    ("reason", "meaning", "mend"),
    [
        ("", "has not looked at it", "starts by itself"),
        ("Priority", "higher priority", "shorter --time"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-4]", "down, drained or reserved", "sinfo -R"),
        ("JobHeldUser", "held by its user", "`scontrol release 12`"),
        ("AssocGrpCPUMinutesLimit", "account's jobs together may have no more core or node", "--account"),
        ("QOSMaxJobsPerUserLimit", "may have no more jobs at the same time", "when others have ended"),
        ("QOSMaxWallDurationPerJobLimit", "run time", "shorter --time"),
        ("QOSMinGRES", "must ask for more GPUs", "submit it with more GPUs"),
        ("QOSUsageThreshold", "a limit of its quality of service", "support"),
        ("SomethingNew", "only this reason", "manual"),
    ],
)
def test_reasons_in_words(reason: str, meaning: str, mend: str) -> None:
    found = explain_reason(reason, "12")
    assert meaning in found[0]
    assert mend in found[1]


def test_tasks_that_share_a_line_of_sacct() -> None:
    assert names_in("12") == ["12"]
    assert names_in("12_3") == ["12_3"]
    assert names_in("12_[2,4-6%2]") == ["12_2", "12_4", "12_5", "12_6"]
