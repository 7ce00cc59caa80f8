"""The processor, which of its cores each rank runs on, and how many that are."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from dhhpc.mpi.workload import share
from dhhpc.mpi.world import World

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology"


def processor_name() -> str:
    """What the maker calls the processor, as Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores_per_rank(world: World) -> int:
    """The cores that the ranks of this machine may run on, divided by their number; at least 1.

    All ranks must call this.
    """
    masks = world.allgather_here(os.sched_getaffinity(0))
    return max(1, len(set().union(*masks)) // len(masks))


def cores_here(world: World) -> int:
    """How many cores the ranks of this machine may run on. All ranks must call this.

    A launcher may bind each rank to its own cores or let all run everywhere: the union of the affinity masks
    on a machine is right for both.
    """
    return len(set().union(*world.allgather_here(os.sched_getaffinity(0))))


def pin_to_cores(world: World) -> set[int]:
    """Keep every thread of this rank on cores of its own; returns them. All ranks must call this.

    Ranks that may run on the same cores divide them. A rank that its launcher has bound shares its cores with
    nobody and keeps them; so do ranks that are more than their cores.
    """
    mine = sorted(os.sched_getaffinity(0))
    sharing = [rank for rank, mask in world.allgather_here((world.rank, mine)) if mask == mine]
    part = own_part(mine, sharing.index(world.rank), len(sharing))
    if part != mine:
        # A mask is a thread's, and BLAS has started its threads when it was loaded.
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.sched_setaffinity(int(thread), part)
    return set(part)


def core_list(cores: Sequence[int]) -> str:
    """Cores in ascending order with neighbours drawn together: 0-3,8 (cpuset(7), "List format")."""
    groups: list[list[int]] = []
    for core in cores:
        if groups and core == groups[-1][-1] + 1:
            groups[-1].append(core)
        else:
            groups.append([core])
    return ",".join(str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in groups)


def place_of(core: int) -> tuple[int, int]:
    """The processor package of a logical core, and the first of the logical cores on its physical one.

    Both 0 and the core itself where the system does not tell.
    """
    folder = Path(TOPOLOGY.format(core))
    try:
        siblings = (folder / "thread_siblings_list").read_text()
        return int((folder / "physical_package_id").read_text()), int(
            siblings.replace("-", ",").split(",")[0]
        )
    except (OSError, ValueError):
        return 0, core


def own_part(
    cores: Sequence[int], index: int, count: int, place: Callable[[int], tuple[int, int]] = place_of
) -> list[int]:
    """The logical cores of rank `index` of `count` that share `cores`; all of them if they are too few.

    Neighbours in a package stay together, and so do the hardware threads of a core while there are enough.
    """
    physical: dict[tuple[int, int], list[int]] = {}
    for core in sorted(cores, key=lambda core: (place(core), core)):
        physical.setdefault(place(core), []).append(core)
    pieces = list(physical.values())
    if len(pieces) < count:
        pieces = [[core] for piece in pieces for core in piece]
    if len(pieces) < count:
        return sorted(cores)
    return sorted(core for i in share(len(pieces), index, count) for core in pieces[i])
