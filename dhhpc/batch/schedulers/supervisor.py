"""The process that runs one local job and leads its session.

SIGTERM and SIGUSR1 go on to the script's process alone, which may then end well; past the time limit it gets
SIGTERM. When it has ended, or stays deaf to SIGTERM, whatever is left of the session is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from dhhpc.batch.processes import start_time
from dhhpc.files import read_json, write_json

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# In a job's folder: its supervisor, whether it waits for other jobs, and how it ended.
PROCESS, WAITING, RESULT = "process.json", "waiting", "result.json"
# What a job waits for: that those before it have completed, or that they are over.
COMPLETED, HOWEVER = "completed", "however"
# How long the script may take to end after SIGTERM, in seconds.
GRACE = 30.0
# How often a job looks whether the ones before it are over, in seconds.
WAIT_SECONDS = 0.5


def supervise(
    script: Path, folder: Path, seconds: float | None, parents: Sequence[Path], however: bool
) -> None:
    """Once the jobs in the folders `parents` have completed (or, with `however`, are over), run `script` for
    at most `seconds`; write how that ended to `folder`."""
    ended_by = None
    block()
    for parent in parents:
        if not awaited(parent, however):
            print(f"job: not started, as {parent.name} has not completed", flush=True)
            write_json(folder / RESULT, {"state": "CANCELLED", "exit_code": None})
            return
    (folder / WAITING).unlink(missing_ok=True)
    job = subprocess.Popen(["bash", str(script)], preexec_fn=unblock)

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal ended_by
        job.send_signal(number)
        if number == signal.SIGTERM:
            ended_by = ended_by or "CANCELLED"
            signal.setitimer(signal.ITIMER_REAL, GRACE)

    def time_is_up(number: int, frame: FrameType | None) -> None:
        nonlocal ended_by
        if ended_by is None:
            ended_by = "TIMEOUT"
            job.terminate()
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        else:
            end_session()

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGALRM, time_is_up)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    unblock()
    code = job.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    end_session()
    state = ended_by or ("COMPLETED" if code == 0 else "FAILED")
    write_json(folder / RESULT, {"state": state, "exit_code": code if code >= 0 else 128 - code})


def awaited(folder: Path, however: bool) -> bool:
    """Wait for the job in `folder`; whether it completed, or with `however`, is over. False, too, when this
    one is cancelled."""
    while not (folder / RESULT).exists():
        if signal.sigtimedwait([signal.SIGTERM], WAIT_SECONDS) is not None:
            return False
        if running_process(folder) is None and not (folder / RESULT).exists():
            return however  # its supervisor was killed
    return however or bool(read_json(folder / RESULT)["state"] == "COMPLETED")


def running_process(folder: Path) -> int | None:
    """The supervisor of the job in `folder` while it runs."""
    mark = read_json(folder / PROCESS)
    process = int(mark["process"])
    return process if start_time(process) == mark["started"] else None


def block() -> None:
    """Hold signals back; programs started meanwhile hold them back too, until they unblock them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def end_session() -> None:
    """Kill all other processes of this session, in whatever process groups they are."""
    for path in Path("/proc").glob("[0-9]*"):
        process = int(path.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if process != os.getpid() and os.getsid(process) == os.getpid():
                os.kill(process, signal.SIGKILL)


def main() -> None:
    """Take SCRIPT FOLDER SECONDS|none completed|however [PARENT...] from the command line."""
    script, folder, limit, how, *parents = sys.argv[1:]
    seconds = None if limit == "none" else float(limit)
    supervise(Path(script), Path(folder), seconds, [Path(parent) for parent in parents], how == HOWEVER)
