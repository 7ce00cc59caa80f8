"""A failure on any rank ends all ranks: one line, exit code 1, no rank left waiting in a collective."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import termios
import time
import traceback
from collections.abc import Callable, Iterator

from dhhpc.errors import DhhpcError
from dhhpc.mpi.world import World

# How long a failing rank waits to hear whether the others failed too, in seconds.
GRACE = 3.0
REPORT, VERDICT = 1, 2
# How long a rank that aborts waits for its launcher to read what it printed, in seconds, of 5 that the watch
# allows an abort.
READING = 3.0
# EX_TEMPFAIL of sysexits.h: the run has a checkpoint to go on from, and job scripts may queue it again.
TRY_AGAIN = 75


@contextlib.contextmanager
def failing_together(world: World) -> Iterator[None]:
    """Run the body; when it fails on any rank, end every rank with exit code 1.

    When all ranks fail with the same message (a missing file, say) rank 0 raises it and the others exit
    silently, so it is read once. Otherwise each failing rank prints its own line, `dhhpc: rank r on host:
    ...`, and the world is aborted, since other ranks may be waiting in a collective. A defect (anything but
    DhhpcError) keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        if world.size == 1:
            raise
        is_defect = not isinstance(error, DhhpcError)
        message = traceback.format_exc() if is_defect else str(error)
        verdict = compare_failures(world, message)
        if verdict == "same" and world.rank == 0:
            raise
        if verdict != "same":
            print(f"dhhpc: rank {world.rank} on {world.host}: {message}", file=sys.stderr, flush=True)
        if verdict == "alone":
            end_all(world)
        sys.exit(1)


def failed_alike(world: World, message: str) -> bool:
    """On a rank that failed with `message`: whether all ranks did, so that they may go on together."""
    return world.size == 1 or compare_failures(world, message) == "same"


def compare_failures(world: World, message: str) -> str:
    """Whether all ranks failed with `message` ("same"), all failed ("different"), or not all ("alone").

    Failing ranks report to rank 0, which answers only when it fails itself and has heard all others in time.
    """
    communicator = world.failure_communicator
    if world.rank > 0:
        request = communicator.isend(message, dest=0, tag=REPORT)
        if not within(2 * GRACE, lambda: communicator.iprobe(source=0, tag=VERDICT)):
            return "alone"
        request.wait()
        verdict: str = communicator.recv(source=0, tag=VERDICT)
        return verdict
    reports: list[str] = []

    def all_heard() -> bool:
        while communicator.iprobe(tag=REPORT):
            reports.append(communicator.recv(tag=REPORT))
        return len(reports) == world.size - 1

    if not within(GRACE, all_heard):
        return "alone"
    verdict = "same" if all(report == message for report in reports) else "different"
    for rank in range(1, world.size):
        communicator.send(verdict, dest=rank, tag=VERDICT)
    return verdict


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Poll `condition` until it holds or `seconds` have passed; whether it held."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def end_all(world: World, code: int = 1) -> None:
    """Abort the world with exit code `code`. MPI's own notice is silenced: the cause stands on stderr.

    The abort waits for the launcher to read what this rank printed: one that hears of an abort first (mpiexec
    on a busy node) ends at once, and leaves in the pipe the one line that says why.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    within(READING, lambda: is_read(1) and is_read(2))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    world.abort(code)


def is_read(descriptor: int) -> bool:
    """Whether nothing lies unread in the pipe `descriptor` writes to; True for anything but a pipe."""
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return True
    nothing = bytes(4)  # the int of a count
    return fcntl.ioctl(descriptor, termios.FIONREAD, nothing) == nothing
