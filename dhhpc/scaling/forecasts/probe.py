"""Measuring what a forecast must know of a machine: messages, sums, memory and the disk.

Two ranks send an array to and fro, all ranks add one up, all copy memory and all write files at the same
time; of many turns the median counts. Latency and bandwidth are those of the line alpha + beta bytes that is
the least off in proportion (Hockney, 1994, "The communication challenge for MPP", Parallel Computing 20).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.files import write_error
from dhhpc.mpi import World, cores_here, processor_name

Array = np.ndarray[Any, Any]

# Bytes of messages and of sums.
SIZES = tuple(8 * 4**power for power in range(11))
TURNS, WARM_UP = 15, 3
# Of what a rank copies; more than the caches of a core's share hold.
COPIED = 2**26
SMALL_FILE = 2**12


@dataclass(frozen=True)
class Line:
    """Seconds by size, and the line through them.

    Attributes:
        seconds: medians over the turns, of each of `sizes` in bytes.
        latency: seconds, alpha.
        bandwidth: bytes a second, the inverse of beta.
        residuals: what the line says over what was measured, minus 1, for each size.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    latency: float
    bandwidth: float
    residuals: tuple[float, ...]


@dataclass(frozen=True)
class Disk:
    """The file system of a folder.

    Attributes:
        write, read: bytes a second of all ranks together; written means that it lies on the disk (fsync).
        latency: seconds to make, write, sync and rename a file of 4 KiB.
    """

    folder: str
    write: float
    read: float
    latency: float


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Attributes:
        cores: that the ranks of rank 0's node may use.
        within, across: messages between two ranks of a node, and of two nodes; None where there are none.
        sums: all-reduce over all ranks, by the last of them; None for one rank.
        copy: bytes a second that all ranks of rank 0's node copy together, read and written ones counted.
        memory: bytes of rank 0's node.
    """

    ranks: int
    hosts: tuple[str, ...]
    ranks_per_node: int
    cores: int
    processor: str
    within: Line | None
    across: Line | None
    sums: Line | None
    copy: float
    memory: int
    disk: Disk

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)


def probe(
    world: World, folder: Path, sizes: Sequence[int] = SIZES, copied: int = COPIED, file_bytes: int = 2**25
) -> Probe:
    """Measure. All ranks call this.

    Args:
        folder: of the file system to measure; what is written there is removed.
        sizes: of messages and sums, in bytes; multiples of 8.
        copied, file_bytes: what each rank copies, and writes.

    Raises:
        DhhpcError: the folder cannot be written.
    """
    hosts = world.allgather_object(world.host)
    near = next((rank for rank, host in enumerate(hosts) if rank and host == hosts[0]), None)
    far = next((rank for rank, host in enumerate(hosts) if host != hosts[0]), None)
    return Probe(
        ranks=world.size,
        hosts=tuple(sorted(set(hosts))),
        ranks_per_node=max(hosts.count(host) for host in set(hosts)),
        cores=world.broadcast_object(cores_here(world)),
        processor=processor_name(),
        within=None if near is None else messages(world, near, sizes),
        across=None if far is None else messages(world, far, sizes),
        sums=None if world.size == 1 else sums(world, sizes),
        copy=copies(world, hosts, copied),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        disk=disk_of(world, folder, file_bytes),
    )


def messages(world: World, partner: int, sizes: Sequence[int]) -> Line:
    """One way between rank 0 and another: half of there and back."""
    found = []
    for size in sizes:
        array = np.zeros(size, np.uint8)

        def exchange(array: Array = array) -> float:
            started = time.perf_counter()
            if world.rank == 0:
                world.communicator.Send(array, dest=partner)
                world.communicator.Recv(array, source=partner)
            elif world.rank == partner:
                world.communicator.Recv(array, source=0)
                world.communicator.Send(array, dest=0)
            return (time.perf_counter() - started) / 2

        found.append(world.broadcast_object(turns(world, exchange)))
    return fit(sizes, found)


def sums(world: World, sizes: Sequence[int]) -> Line:
    """From when all are there to when the last has the sum."""
    found = []
    for size in sizes:
        array = np.zeros(size // 4, np.float32)

        def add(array: Array = array) -> float:
            started = time.perf_counter()
            world.allreduce_sum(array)
            return time.perf_counter() - started

        found.append(turns(world, add, slowest=True))
    return fit(sizes, found)


def turns(world: World, measured: Callable[[], float], slowest: bool = False) -> float:
    """The median of several turns, begun together: this rank's, or that of the slowest rank in each."""
    seconds = np.zeros(TURNS)
    for turn in range(-WARM_UP, TURNS):
        world.barrier()
        taken = measured()
        if turn >= 0:
            seconds[turn] = taken
    if slowest:
        world.allreduce_max(seconds)
    return float(median(seconds))


def copies(world: World, hosts: Sequence[str], size: int) -> float:
    """Bytes a second that the ranks of rank 0's node read and write while all copy."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)

    def copy() -> float:
        started = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - started

    speeds = world.allgather_object(2 * size / turns(world, copy))
    return float(sum(speed for speed, host in zip(speeds, hosts, strict=True) if host == hosts[0]))


def disk_of(world: World, folder: Path, size: int) -> Disk:
    """Each rank writes a file, brings it to the disk, and reads it again past the system's cache."""
    path = folder / f".dhhpc-probe-{os.getpid()}-{world.rank}"
    content = np.random.default_rng(world.rank).bytes(size)
    steps: list[Callable[[], float]] = [
        lambda: seconds_to_write(path, content),
        lambda: seconds_to_read(path),
        lambda: median(seconds_to_write(path, bytes(SMALL_FILE)) for _ in range(5)),
    ]
    problem, found = "", [0.0] * len(steps)
    try:
        for number, step in enumerate(steps):
            world.barrier()
            if not problem:
                try:
                    found[number] = step()
                except OSError as error:
                    problem = str(write_error(folder, error))
    finally:
        path.unlink(missing_ok=True)
    problems, *seconds = zip(*world.allgather_object((problem, *found)), strict=True)
    if any(problems):
        raise DhhpcError(next(line for line in problems if line))
    slowest = [max(column) for column in seconds]
    total = world.size * size
    return Disk(str(folder), total / slowest[0], total / slowest[1], slowest[2])


def seconds_to_write(path: Path, content: bytes) -> float:
    """As checkpoints are: under another name, brought to the disk, then renamed."""
    temporary = path.with_name(f"{path.name}.new")
    started = time.perf_counter()
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return time.perf_counter() - started


def seconds_to_read(path: Path) -> float:
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        while file.read(2**20):
            pass
        return time.perf_counter() - started


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Line:
    """The line alpha + beta size with the least squares of residuals in proportion; neither is below 0."""
    across, up = np.asarray(sizes, float), np.asarray(seconds, float)
    columns = np.stack([1 / up, across / up], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, np.ones(len(up)), rcond=None)
    if alpha < 0 or beta <= 0:
        # One term alone fits better than a negative one: each with its own least squares.
        alpha, beta = (0.0, one_term(columns[:, 1])) if alpha < 0 else (one_term(columns[:, 0]), 0.0)
    residuals = (alpha + beta * across) / up - 1
    bandwidth = 1 / beta if beta > 0 else float(across[-1] / up[-1])
    return Line(
        tuple(map(int, sizes)),
        tuple(map(float, seconds)),
        float(alpha),
        float(bandwidth),
        tuple(map(float, residuals)),
    )


def one_term(column: Array) -> float:
    return float(column.sum() / (column**2).sum())
