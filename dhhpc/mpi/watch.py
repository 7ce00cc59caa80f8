"""A dead or hung rank is noticed and named, and all ranks end, which else wait for it to the time limit.

Every rank of several has a thread that tells the next rank, in a ring of TCP connections (`Ring`), what its
main thread is doing (`Progress`) and for how long it has got nowhere, and that judges the rank before. A
rank is lost when

- its connection closes without a farewell: it was killed or has crashed;
- nothing comes from it for `timeout` seconds: it is stopped, its machine is gone, or its interpreter hangs;
- its main thread has got nowhere for `timeout` seconds outside of a collective: an endless loop, or a call of
  the operating system that does not come back.

Ranks inside a collective wait for others and are not to blame, however long it takes. When all of them have
been there for `timeout` seconds, which a message that goes around the ring finds out, it is MPI or the
network that hangs.

The rank that notices tells it on stderr and to `report`, passes it on around the ring, and aborts the world
with TRY_AGAIN. So it is told once. Who hears of it ends with TRY_AGAIN too, should the abort not come
through.

Each rank sends and receives one message of some 100 bytes in each twentieth of the timeout (10 s at most),
whatever the number of ranks, most of them inside a machine: 1000 ranks send 100 messages a second over all
machines. No file is touched before the report. A rank that was not running itself, as when a whole job is
suspended, does not take that for the silence of others: it counts the time that it was awake.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from dhhpc.mpi.failure import TRY_AGAIN, end_all
from dhhpc.mpi.progress import Progress
from dhhpc.mpi.ring import Place, Ring
from dhhpc.mpi.world import World

Report = Callable[[dict[str, Any]], None]

# Between two messages, in seconds: a twentieth of the timeout, and at most this.
LONGEST_INTERVAL = 10.0
# Ranks that a launcher kills together do not die in the same moment: seconds until a death is told.
DYING = 2.0
# The file system may be what hangs: seconds that the report may take, and then the abort.
REPORTING, ABORTING = 10.0, 5.0


@contextlib.contextmanager
def watching(
    world: World, timeout: float, report: Report, warn: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """While inside, ranks watch over each other; nothing with one rank or a timeout of 0.

    Args:
        world: all ranks call this; `world.progress` tells what each is doing.
        timeout: seconds; a rank is noticed after them and a fifth more at the latest.
        report: called on the rank that notices, in another thread, with finding ("dead", "silent", "hung" or
            "waiting"), rank, host and pid (None where all are waiting), phase, seconds, since (UTC, ISO 8601)
            and message.
        warn: called on every rank with a line about each rank that cannot be watched.
    """
    if world.size == 1 or timeout == 0:
        yield
        return
    watch = Watch(world, timeout, report)
    for problem in watch.ring.problems:
        warn(f"{problem}, so that it may hang unnoticed; let ranks connect, or set watch.timeout to 0")
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class Stillness:
    """Seconds for which something has not changed, as far as the one who looks was awake.

    Args:
        interval: seconds between two looks; a longer break counts as twice that.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.seconds = 0.0
        self._looked = time.monotonic()

    def look(self, changed: bool) -> float:
        """Seconds since the last change."""
        now = time.monotonic()
        self.seconds = 0.0 if changed else self.seconds + min(now - self._looked, 2 * self.interval)
        self._looked = now
        return self.seconds


class Watch(threading.Thread):
    """The thread of one rank."""

    def __init__(self, world: World, timeout: float, report: Report) -> None:
        super().__init__(name="watch", daemon=True)
        self.world, self.timeout, self.report = world, timeout, report
        self.interval = min(timeout / 20, LONGEST_INTERVAL)
        self.ring = Ring(world)
        self.ended = threading.Event()
        self.own = Stillness(self.interval)
        self.silence = Stillness(self.interval)
        self.steps = -1
        self.due = time.monotonic()  # for the next look
        self.died: float | None = None  # when its connection was closed without a farewell
        # Until the rank before has said something, it is where everybody is.
        self.heard: dict[str, Any] = beat(world.progress) | {"still": 0.0}

    def stop(self) -> None:
        """Say farewell; the rank after this one no longer judges it."""
        self.ended.set()
        self.ring.wake()
        self.join()
        self.ring.send(kind="farewell")
        self.ring.close()

    def run(self) -> None:
        while not self.ended.is_set():
            if self.died is not None:
                self.due = min(self.due, self.died + DYING)
            wait = self.due - time.monotonic()
            if wait > 0:
                self.listen(wait)
                continue
            self.due = time.monotonic() + self.interval
            self.ring.send(**self.look())
            self.silence.look(changed=False)
            self.judge()

    def look(self) -> dict[str, Any]:
        """What this rank is doing, and for how long it has got nowhere."""
        progress = self.world.progress
        seen = beat(progress)
        steps = progress.steps  # at last, see Progress
        self.own.look(changed=steps != self.steps)
        self.steps = steps
        return seen | {"still": round(self.own.seconds, 3)}

    def listen(self, seconds: float) -> None:
        """Take in what comes from the rank before."""
        messages = self.ring.receive(seconds)
        if messages is None:
            self.died = time.monotonic()
            return
        for message in messages:
            self.silence.look(changed=True)
            if message["kind"] == "beat":
                self.heard = message
            elif message["kind"] == "farewell":
                self.ring.leave()
            elif message["kind"] == "question":
                self.answer(message)
            else:
                self.end_with_others(message)

    def judge(self) -> None:
        """Whether the rank before is lost."""
        if self.died is not None and time.monotonic() - self.died >= DYING:
            self.tell("dead", self.heard["still"] + self.silence.seconds)
        if self.ring.incoming is None:
            return
        silent, still = self.silence.seconds, self.heard["still"] + self.silence.seconds
        if silent > self.timeout:
            self.tell("silent", still)
        elif self.heard["waiting"] is None and still > max(self.timeout, self.heard["patience"]):
            self.tell("hung", still)
        elif self.world.rank == 0 and self.waits_too_long():
            self.ring.send(kind="question")

    def waits_too_long(self) -> bool:
        waiting = self.look()["waiting"] is not None
        return waiting and self.own.seconds > self.timeout

    def answer(self, question: dict[str, Any]) -> None:
        """Rank 0 asks whether all ranks have been waiting for long; who has not, does not pass it on."""
        if not self.waits_too_long():
            return
        if self.world.rank == 0:
            self.tell("waiting", self.own.seconds)
        else:
            self.ring.send(**question)

    def tell(self, finding: str, seconds: float) -> None:
        """End all ranks because of the one before, or, where all are waiting, because of no one."""
        found = self.finding(finding, seconds)
        print(f"dhhpc: {found['message']}; all ranks end, go on with --resume", file=sys.stderr, flush=True)
        self.ring.send(kind="end")
        reporting = threading.Thread(target=self.report, args=(found,), daemon=True)
        reporting.start()
        reporting.join(REPORTING)
        end_now(self.world)

    def finding(self, finding: str, seconds: float) -> dict[str, Any]:
        place: Place | None = self.ring.before
        phase = self.heard["phase"]
        since = datetime.now(UTC) - timedelta(seconds=seconds)
        if finding == "waiting":
            place, phase = None, self.world.progress.phase
            message = (
                f"all {self.world.size} ranks have waited for each other for {seconds:.3g} s, rank 0 in "
                f"{self.world.progress.waiting}: MPI or the network hangs, in {phase}"
            )
        elif finding == "dead":
            message = f"{place} has died: it was last heard of in {phase}"
        elif finding == "silent":
            message = (
                f"{place} has given no sign of life for {seconds:.3g} s: it was last heard of in {phase}"
            )
        else:
            message = f"{place} has shown no progress for {seconds:.3g} s: it was in {phase}"
        return {
            "finding": finding,
            "rank": place and place.rank,
            "host": place and place.host,
            "pid": place and place.pid,
            "phase": phase,
            "seconds": round(seconds, 1),
            "since": since.isoformat(timespec="milliseconds"),
            "message": message,
        }

    def end_with_others(self, message: dict[str, Any]) -> None:
        """Another rank has found one that is lost, and is about to abort all."""
        self.ring.send(**message)
        if not self.ended.wait(REPORTING + ABORTING):
            os._exit(TRY_AGAIN)


def beat(progress: Progress) -> dict[str, Any]:
    """What a rank tells of itself."""
    return {
        "kind": "beat",
        "phase": progress.phase,
        "waiting": progress.waiting,
        "patience": progress.patience,
    }


def end_now(world: World) -> None:
    """Abort all ranks with TRY_AGAIN from a thread, whatever the main thread is in."""
    from mpi4py import MPI

    if MPI.Query_thread() == MPI.THREAD_MULTIPLE:
        # Where MPI cannot even abort, the clock of the operating system ends this rank.
        signal.alarm(int(ABORTING))
        end_all(world, TRY_AGAIN)
    os._exit(TRY_AGAIN)
