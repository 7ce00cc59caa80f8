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
from pathlib import Path
from types import FrameType

from dhhpc.files import write_json

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
RESULT = "result.json"
# How long the script may take to end after SIGTERM, in seconds.
GRACE = 30.0


def supervise(script: Path, folder: Path, seconds: float | None) -> None:
    """Run `script` for at most `seconds` and write how it ended to `folder`."""
    ended_by = None
    block()
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
    """Take SCRIPT FOLDER [SECONDS] from the command line."""
    script, folder, *limit = sys.argv[1:]
    supervise(Path(script), Path(folder), float(limit[0]) if limit else None)
