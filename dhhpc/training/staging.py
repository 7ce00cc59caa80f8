"""Shards copied to a disk of each node before a run, by all its ranks, and removed behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from dhhpc.data.shard_index import INDEX_NAME, ShardRecord, read_index
from dhhpc.data.shards import check_shard
from dhhpc.data.staged_copy import CopyStopped, NodeCopy, Staged, copy_shard
from dhhpc.errors import DhhpcError
from dhhpc.mpi import Levels, World, levels_of
from dhhpc.training.experiment import Experiment
from dhhpc.training.meeting import AgreedError
from dhhpc.training.network import CreateNetwork
from dhhpc.training.preparation import check
from dhhpc.training.run_record import RunRecord
from dhhpc.training.stopping import Stopped, StopRequest, stopping_on_signals

Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Staging(Staged):
    """The copies of the shards of some splits, one a node; `folder` is that of this rank's node.

    Attributes:
        nodes: of each its host, folder, bytes of the shards that are read there, copied (how many of these
            bytes were not there yet), and the seconds that it took to have them there, checked.
    """

    nodes: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """What run.json tells of it."""
        return {"splits": list(self.splits), "nodes": self.nodes}


@contextlib.contextmanager
def staged_for_training(
    experiment: Experiment,
    place: str | None,
    world: World,
    create: CreateNetwork,
    resume: bool,
    tell: Tell,
    keep: bool = False,
) -> Iterator[tuple[Staging | None, StopRequest | None]]:
    """While inside, the shards that training reads lie on the nodes; nothing without a `place`. As `staged`.

    What else keeps the training from beginning is found before anything is copied. SIGTERM and SIGUSR1 end
    the copying; later ones are for training to hear, by the request that this yields.
    """
    if place is None:
        yield None, None
        return

    def ready() -> None:
        problem = RunRecord(experiment.folder).earlier(resume)[1]
        if problem:
            raise DhhpcError(problem)
        check(experiment, world.size, create)

    stop = StopRequest()
    splits = ("training", "validation")
    with (
        stopping_on_signals(stop),
        staged(experiment.data.shards, splits, place, world, tell, keep, stop, ready) as staging,
    ):
        yield staging, stop


@contextlib.contextmanager
def staged(
    shards: Path,
    splits: tuple[str, ...],
    place: str,
    world: World,
    tell: Tell,
    keep: bool = False,
    stop: StopRequest | None = None,
    ready: Callable[[], object] = lambda: None,
) -> Iterator[Staging]:
    """While inside, the shards of `splits` lie on a disk of each node, see `NodeCopy`.

    The ranks of a node share the copying. When they leave, also by an error, the copy is removed unless
    another job uses it; where ranks are killed or the world is aborted it stays for the next job.

    Args:
        shards: where they lie.
        place: the folder on each node below which the copy is made.
        world: all its ranks call this, with equal arguments but for `place`, of which the first rank of each
            node decides.
        tell: called on rank 0 with "staged" and "warning", as `train` does.
        keep: nobody removes the copy, once it is whole.
        stop: a request ends the copying; unless given, SIGTERM and SIGUSR1 end this process as ever, once it
            has removed the copy.
        ready: called on rank 0 before anything is copied.

    Raises:
        AgreedError: a shard is missing, damaged or cannot be read, a disk is full or cannot be written, or
            `ready` failed; the same line on every rank, and nothing is left behind.
        Stopped: on request.
    """
    index, records = read_alike(shards, splits, world, ready)
    levels = levels_of(world)
    group = levels.group
    copy: NodeCopy = group.broadcast_object(NodeCopy(Path(os.path.abspath(place)), index, world.host))
    leads, whole = group.rank == 0, False
    try:
        with removing_on_signals(copy, keep) if leads and stop is None else contextlib.nullcontext():
            nodes = copy_together(copy, shards, records, world, group, stop or StopRequest(), tell)
            whole = True
            if world.rank == 0:
                sums = {name: sum(node[name] for node in nodes) for name in ("bytes", "copied")}
                seconds = max(node["seconds"] for node in nodes)
                tell("staged", sums | {"nodes": len(nodes), "seconds": seconds, "folder": copy.folder})
            yield Staging(copy.folder, splits, nodes)
            group.barrier()
    except BaseException:
        if leads:
            with contextlib.suppress(DhhpcError):  # what ended the run is the one to tell
                copy.leave(keep and whole)
        raise
    left = attempt(lambda: copy.leave(keep)) if leads else None
    for line in filter(None, world.allgather_object(left)):
        if world.rank == 0:
            tell("warning", {"message": line})
    free(levels)


def read_alike(
    shards: Path, splits: Sequence[str], world: World, ready: Callable[[], object]
) -> tuple[bytes, list[ShardRecord]]:
    """The bytes of index.json and its records of some splits, whose files are there in their sizes. Rank 0
    alone looks, lest all ranks ask the shared file system for all files."""
    index, records = b"", []

    def look() -> None:
        nonlocal index, records
        ready()
        records = read_index(shards).of(splits)
        for record in records:
            check_shard(shards, record)
        index = (shards / INDEX_NAME).read_bytes()

    problem = attempt(look) if world.rank == 0 else None
    problem, index, records = world.broadcast_object((problem, index, records))
    if problem:
        raise AgreedError(problem)
    return index, records


def copy_together(
    copy: NodeCopy,
    shards: Path,
    records: Sequence[ShardRecord],
    world: World,
    group: World,
    stop: StopRequest,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Have the shards on every node, or on none; returns what `Staging` tells of the nodes.

    What locks out other jobs on a node is held while the ranks of that node copy, and not while nodes wait
    for each other, where two jobs could wait for each other's nodes for ever.
    """

    def prepare() -> None:
        copy.use()
        copy.remove_abandoned()
        copy.check_space(records)

    def asked() -> bool:
        return stop.stop_requested

    leads = group.rank == 0
    world.progress.at("the staging of shards")
    agree(world, attempt(prepare) if leads else None, stop, tell)
    started = time.perf_counter()
    missing: list[ShardRecord] = []
    problem = None
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            nonlocal missing
            stack.enter_context(copy.adding(asked))
            missing = copy.missing(records)

        if leads:
            problem = attempt(begin)
        problem, missing = group.broadcast_object((problem, missing))
        if problem is None:
            mine = dealt(missing, group.rank, group.size)
            problem = attempt(lambda: copy_all(mine, shards, copy, asked))
        group.barrier()
    found = {
        "host": copy.host,
        "folder": str(copy.folder),
        "bytes": sum(record.bytes for record in records),
        "copied": sum(record.bytes for record in missing),
        "seconds": round(time.perf_counter() - started, 4),
    }
    agree(world, problem, stop, tell)
    return [node for node in world.allgather_object(found if leads else None) if node]


def copy_all(records: Sequence[ShardRecord], shards: Path, copy: NodeCopy, asked: Callable[[], bool]) -> None:
    for record in records:
        copy_shard(shards, copy.folder, record, copy.host, asked)


def dealt(records: Sequence[ShardRecord], rank: int, size: int) -> list[ShardRecord]:
    """Those that a rank of a node copies: the largest first, each by the rank with the fewest bytes."""
    loads, mine = [0] * size, []
    for record in sorted(records, key=lambda record: -record.bytes):
        taker = loads.index(min(loads))
        loads[taker] += record.bytes
        if taker == rank:
            mine.append(record)
    return mine


def attempt(action: Callable[[], None]) -> str | None:
    """The line that `action` fails with; nothing where it was asked to stop, which `agree` tells others."""
    try:
        action()
    except CopyStopped:
        return None
    except DhhpcError as error:
        return str(error)
    return None


def agree(world: World, problem: str | None, stop: StopRequest, tell: Tell) -> None:
    """Raise on all ranks what any has met, or end all where any was asked to stop."""
    told = world.allgather_object((problem, stop.stop_requested))
    for line, _ in told:
        if line:
            raise AgreedError(line)
    if any(asked for _, asked in told):
        if world.rank == 0:
            tell("warning", {"message": "stopped by a signal before training began; start it with --resume"})
        raise Stopped


@contextlib.contextmanager
def removing_on_signals(copy: NodeCopy, keep: bool) -> Iterator[None]:
    """While inside, SIGTERM and SIGUSR1 end this process as ever, once the copy is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(DhhpcError):
            copy.leave(keep)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def free(levels: Levels) -> None:
    """Give the communicators back. All ranks call this."""
    for part in (levels.group, levels.leaders):
        if part is not None and part.whole is not None:
            part.communicator.Free()
