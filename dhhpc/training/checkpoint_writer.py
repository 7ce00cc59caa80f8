"""Checkpoints written in the background: training goes on once the arrays have been copied.

At a checkpoint every rank copies what it will write into its snapshot: its shard of what all agree upon, and
what it has of its own. A thread of each rank then writes and hashes that, brings it to the disk, and leaves a
receipt beside it; the thread of rank 0 waits for all receipts before it writes the description, with which
the checkpoint begins to exist, and only then removes older ones. So a rank that is killed at any moment
leaves the checkpoint whole or not at all, and a machine that crashes loses none that older ones were
removed for. Threads call no MPI.

Of equal shards a thousand ranks write a thousandth each, at the same time. But to make, sync and rename a
file costs some milliseconds whatever is in it, and all ranks of a parallel file system share the server that
does so: a state of some megabytes is written sooner by one rank than by a thousand. So a shard has a smallest
size. Where ranks have something of their own each writes a file anyway, and shards cost no further one.

The next checkpoint waits for this one. To leave one out would make it depend on the disk which checkpoints
there are, and so which is the best of them. A thread that fails has all ranks stop at their next meeting.

The snapshot is allocated by the first checkpoint, used by all, and given back when training ends. Of
parameters, statistics, optimizer state and what the method of averaging remembers, a rank of N holds an N-th,
and what it has of its own: for Adam 12 bytes a parameter on one rank, 12 / N where all ranks agree. It is the
only copy that is made, so that waiting for the disk instead would save no more than that.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder, Part
from dhhpc.training.layout import Array, Layout
from dhhpc.training.meeting import AgreedError

# Seconds between two looks at whether a thread gets on, and between two at whether receipts have come.
LOOK, SHORTEST_POLL, LONGEST_POLL = 0.1, 0.01, 1.0
# Seconds that a thread which is no longer wanted gets to end by itself.
ENDING = 10.0


class AbandonedError(Exception):
    """The checkpoint is no longer wanted."""


class Writing(threading.Thread):
    """The thread that writes one checkpoint.

    Args:
        checkpoint: with all parts, but for their SHA-256.
        content: of this rank's part (uint8), if it has one; stays as it is until `own_done`.
        failed: hears, in this thread, the line about a failure.

    Attributes:
        own_done, ended: set when this rank's part is written and when all is done, also by a failure.
        problem: the line about a failure.
        described: whether the checkpoint exists; on rank 0.
        steps: grows as it gets somewhere.
        spans: name and times of what it has done.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        checkpoint: Checkpoint,
        rank: int,
        content: Array,
        failed: Callable[[str], None],
    ) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self.folder, self.checkpoint, self.rank = folder, checkpoint, rank
        self.content, self.failed = content, failed
        self.part = next((part for part in checkpoint.parts if part.rank == rank), None)
        self.brought: dict[int, str] = {}
        self.own_done, self.ended = threading.Event(), threading.Event()
        self.abandoned, self.woken = threading.Event(), threading.Event()
        self.problem: str | None = None
        self.described = False
        self.steps = 0
        self.spans: list[tuple[str, float, float]] = []

    def run(self) -> None:
        try:
            if self.part is not None:
                self.write(self.part)
            self.own_done.set()
            if self.rank == 0:
                self.collect()
                self.describe()
        except AbandonedError:
            pass
        except Exception as error:
            self.problem = str(error) if isinstance(error, DhhpcError) else traceback.format_exc()
            self.failed(self.problem)
        finally:
            self.own_done.set()
            self.ended.set()

    def write(self, part: Part) -> None:
        """This rank's part, and its receipt."""
        started = time.perf_counter()
        part.sha256 = self.folder.write_part(self.checkpoint, part.rank, self.content, self.went_on)
        if self.rank > 0:
            self.folder.leave_receipt(self.checkpoint, part)
        self.spans.append(("write", started, time.perf_counter()))

    def collect(self) -> None:
        """Wait for the receipts of all other parts. Other machines' may be seen late, by a minute on NFS; the
        main thread brings them at the next checkpoint if it is there first."""
        started, pause = time.perf_counter(), SHORTEST_POLL
        while missing := [part for part in self.checkpoint.parts if not part.sha256]:
            found = self.folder.receipts(self.checkpoint) | self.brought
            for part in missing:
                part.sha256 = found.get(part.rank, "")
            if not found.keys() >= {part.rank for part in missing}:
                self.woken.wait(pause)
                self.went_on()
                pause = min(2 * pause, LONGEST_POLL)
        self.spans.append(("wait for parts", started, time.perf_counter()))

    def describe(self) -> None:
        """Make the checkpoint exist, then remove older ones."""
        started = time.perf_counter()
        self.folder.write_description(self.checkpoint)
        self.described = True
        self.folder.remove_old(self.stepped)
        self.spans.append(("describe", started, time.perf_counter()))

    def bring(self, digests: dict[int, str]) -> None:
        """All parts are written, says the main thread of rank 0, which has heard so from the others."""
        self.brought = digests
        self.woken.set()

    def stepped(self) -> None:
        self.steps += 1

    def went_on(self) -> None:
        self.stepped()
        if self.abandoned.is_set():
            raise AbandonedError

    def abandon(self) -> None:
        """Have it end before the checkpoint exists, unless it does; a disk that hangs is not waited for."""
        self.abandoned.set()
        self.woken.set()
        self.join(ENDING)


class CheckpointWriter:
    """Writes the checkpoints of a run, one after the other.

    Args:
        smallest_shard: in bytes; what all agree upon is cut into at most as many shards as ranks.
        failed: hears the line about a failure, in a thread of its own.
        written: called on rank 0 by the main thread, with the description's path, the checkpoint, the seconds
            that the thread took, and the bytes of the snapshot.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        world: World,
        smallest_shard: int,
        failed: Callable[[str], None],
        written: Callable[[Path, Checkpoint, float, int], None],
    ) -> None:
        self.folder, self.world, self.smallest_shard = folder, world, smallest_shard
        self.failed, self.written = failed, written
        self.snapshot = np.empty(0, np.uint8)
        self.writing: Writing | None = None
        self.untold: Writing | None = None

    def begin(
        self,
        checkpoint: Checkpoint,
        agreed: Mapping[str, Array],
        own: Mapping[str, Array],
        agreement: contextlib.AbstractContextManager[None] | None = None,
    ) -> None:
        """Copy the arrays and begin to write them, once the checkpoint before is there. All ranks call this.

        Args:
            checkpoint: without its arrays.
            agreed: C-contiguous arrays with the same content on all ranks, inside of `agreement`.
            own: C-contiguous arrays of this rank, with the same names and shapes on all ranks.

        Raises:
            AgreedError: the checkpoint before cannot be written.
        """
        self.finish()
        size = self.world.size
        checkpoint.agreed, checkpoint.own = Layout.of(agreed), Layout.of(own)
        shards = max(1, min(size, checkpoint.agreed.size // self.smallest_shard))
        if own:
            shards = size
        # Shards lie with ranks far from each other, and so on as many machines as can be.
        writers = [number * size // shards for number in range(shards)]
        checkpoint.parts = [
            Part(rank, start, stop, stop - start + checkpoint.own.size, "")
            for rank, (start, stop) in zip(writers, pairwise(checkpoint.agreed.cut(shards)), strict=True)
        ]
        content = self.snapshot[:0]
        part = next((part for part in checkpoint.parts if part.rank == self.world.rank), None)
        if part is not None:
            if part.size > self.snapshot.size:
                self.snapshot = np.empty(part.size, np.uint8)
            content = self.snapshot[: part.size]
            checkpoint.own.copy(own, 0, checkpoint.own.size, content[part.stop - part.start :])
        with agreement or contextlib.nullcontext():
            if part is not None:
                checkpoint.agreed.copy(agreed, part.start, part.stop, content[: part.stop - part.start])
        self.writing = Writing(self.folder, checkpoint, self.world.rank, content, self.failed)
        self.untold = self.writing
        self.writing.start()

    def finish(self) -> None:
        """Wait until the last checkpoint that was begun exists. All ranks call this.

        Raises:
            AgreedError: it cannot be written, by any of them.
        """
        writing, self.writing = self.writing, None
        if writing is None:
            return
        self._wait(writing, writing.own_done)
        digest = writing.part.sha256 if writing.part else ""
        told = self.world.allgather_object((writing.problem, digest))
        problems = [problem for problem, _ in told if problem]
        if not problems and self.world.rank == 0:
            writing.bring({rank: digest for rank, (_, digest) in enumerate(told)})
            self._wait(writing, writing.ended)
            problems = [writing.problem] if writing.problem else []
        problems = self.world.broadcast_object(problems)
        if problems:
            writing.abandon()
            if self.world.rank == 0 and not writing.described:
                with contextlib.suppress(DhhpcError):  # the problem is what to tell
                    self.folder.remove_left_overs()  # for a full disk; no rank writes any more
            raise AgreedError(problems[0])
        writing.join()
        self.look()

    def close(self) -> None:
        """No further checkpoint is begun: the memory of the snapshot is free for what comes then.

        Raises:
            AgreedError: see `finish`.
        """
        self.finish()
        self.untold, self.snapshot = None, np.empty(0, np.uint8)

    def look(self) -> None:
        """Tell of the checkpoint once it is written."""
        told = self.untold
        if told is None or not told.ended.is_set():
            return
        self.untold = None
        for name, started, ended in told.spans:
            self.world.timeline.beside(f"{name} {told.checkpoint.name}", started, ended)
        if told.described:
            path, seconds = self.folder.description(told.checkpoint), told.spans[-1][2] - told.spans[0][1]
            self.written(path, told.checkpoint, seconds, self.snapshot.size)

    def newest(self) -> Path | None:
        """The description of the newest checkpoint, which may still be on its way."""
        if self.writing is not None:
            return self.folder.description(self.writing.checkpoint)
        return max(self.folder.descriptions(), default=None)

    def abandon(self) -> None:
        """This rank fails: a checkpoint that is being written shall not exist, unless it does already."""
        if self.writing is not None:
            self.writing.abandon()
            self.writing = None

    def _wait(self, writing: Writing, event: threading.Event) -> None:
        """A slow disk is no hang: this rank shows progress as its thread does, and none if that hangs."""
        seen = -1
        while not event.wait(LOOK):
            if writing.steps != seen:
                seen = writing.steps
                self.world.progress.goes_on()
