"""Running a `dhhpc` command as a process of its own, as its user would, with its output in a log file."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from dhhpc.batch.job_log import ending, last_error_line
from dhhpc.errors import DhhpcError
from dhhpc.files import write_error

ENDING = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.2
# prctl(2) of Linux; loaded here, since a new process may not load anything before it runs its program.
SYSTEM, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1
END_SECONDS = 30


def run_dhhpc(arguments: Sequence[str], log: Path, poll: Callable[[], None] | None = None) -> None:
    """Run `dhhpc` with `arguments` to its end, its output in `log` (replaced).

    When this process is told to end (Ctrl-C, SIGTERM), the command is ended first. When it is killed, the
    system tells the command to end.

    Args:
        poll: called every fifth of a second meanwhile.

    Raises:
        DhhpcError: the command failed; names it and its last error line.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = open(log, "wb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise write_error(log, error) from error
    with output, ending_on_signals():
        # A signal that came while the process starts would leave it behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        process = subprocess.Popen(
            [sys.executable, "-m", "dhhpc", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=functools.partial(prepare, os.getpid()),
        )
        try:
            unblock()
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL_SECONDS)
                    break
                if poll is not None:
                    poll()
        except BaseException:
            end(process)
            raise
    if code:
        raise DhhpcError(
            f"`dhhpc {' '.join(arguments)}` failed ({ending(code)}): {last_error_line(log)}; see {log}"
        )


def prepare(parent: int) -> None:
    """In the new process: end with its parent, and hear signals."""
    SYSTEM.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before
        os._exit(128 + signal.SIGTERM)
    unblock()


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """While inside, SIGTERM unwinds this process like Ctrl-C does, so that `finally` blocks run."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
