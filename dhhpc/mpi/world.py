"""The world of ranks: one thin object over MPI, or a world of one where no launcher started this process."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi.launcher import EXPECTED_RANKS, Launcher, detect_launcher
from dhhpc.mpi.library import start_mpi
from dhhpc.mpi.progress import Progress
from dhhpc.mpi.timeline import Timeline

if TYPE_CHECKING:
    from dhhpc.mpi.hierarchy import Hierarchy

Array = np.ndarray[Any, Any]

# Between two looks at a request, in seconds.
SHORTEST_SLEEP, LONGEST_SLEEP = 2e-5, 1e-3


class Pending:
    """A sum or maximum over the ranks that is on its way; see `World.begin_sum`."""

    def __init__(self, array: Array, request: Any, world: World, number: int | None) -> None:
        self.array, self._request, self._world, self._number = array, request, world, number

    def arrived(self) -> bool:
        """Whether `array` holds the result by now; to look brings it on its way, too."""
        started = time.perf_counter()
        arrived = bool(self._request.Test())
        ended = time.perf_counter()
        self._world.seconds += ended - started
        self._world.timeline.collective("test_allreduce", started, ended, None)
        if arrived:
            self._end()
        return arrived

    def wait(self) -> None:
        """Until `array` holds the result."""
        with self._world.inside("wait_for_allreduce"):
            self._world.wait_for(self._request)
        self._end()

    def _end(self) -> None:
        self._world.timeline.end(self._number)
        self._number = None


class World:
    """All ranks of this run, and this process among them.

    Every collective must be called by all ranks in the same order. Arrays are changed in place; they must be
    C-contiguous. With one rank nothing is sent and no MPI is loaded.

    Attributes:
        rank, size: this process's number from 0, and how many there are.
        host: the name of this machine.
        local_rank, local_size: the same among the ranks that share this machine's memory.
        crowded: whether, on any machine, ranks are more than the cores that they may run on.
        launcher: what started the ranks.
        whole: the world that this one is a part of, which counts for it; None for the whole.
        failure_communicator: a second mpi4py communicator for `failing_together`; None in a world of one,
            and in a part.
        hierarchy: what sums larger arrays in its place, if anything does.
        messages, bytes_sent: collectives called and arrays sent so far, and payload bytes handed to them.
        bytes_in_node: put into memory that the ranks of a node share, in place of being sent.
        seconds: wall time spent on them.
        progress: what this rank is doing.
        timeline: where that is recorded, on request.
    """

    def __init__(
        self, communicator: Any = None, launcher: Launcher | None = None, whole: World | None = None
    ) -> None:
        self._communicator, self.whole = communicator, whole
        alone = communicator is None or whole is not None
        # Failing ranks speak on a communicator of their own, past any collective that others wait in.
        self.failure_communicator: Any = None if alone else communicator.Dup()
        self._background: Any = None if alone else communicator.Dup()
        self.launcher = launcher or Launcher("none", 1, "")
        self.host = socket.gethostname()
        self.rank, self.size, self.local_rank, self.local_size = 0, 1, 0, 1
        self.crowded = False
        # Apart from barriers: ranks that are in different collectives must not pass on.
        self._meeting: Any = None
        self._here: Any = None
        self.hierarchy: Hierarchy | None = None
        self.messages = 0
        self.bytes_sent = 0
        self.bytes_in_node = 0
        self.seconds = 0.0
        self.progress = Progress()
        self.timeline = Timeline()
        if communicator is not None:
            from mpi4py import MPI

            self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
            node = communicator.Split_type(MPI.COMM_TYPE_SHARED)
            self.local_rank, self.local_size = node.Get_rank(), node.Get_size()
            node.Free()
            self._here = communicator.Split(zlib.crc32(self.host.encode()) & 0x7FFFFFFF)
            masks = self.allgather_here(os.sched_getaffinity(0))
            # All ranks must agree, as they meet before collectives or do not.
            self.crowded = bool(communicator.allreduce(len(masks) > len(set().union(*masks)), op=MPI.LOR))
            if self.crowded:
                self._meeting = communicator.Dup()

    @property
    def communicator(self) -> Any:
        """The mpi4py communicator, None in a world of one."""
        return self._communicator

    def allreduce_sum(self, array: Array) -> None:
        """Replace `array` (any shape, numeric) by its sum over the ranks, the same bits on every rank."""
        if self._communicator is None:
            return
        if self.hierarchy is not None and self.hierarchy.takes(array):
            self.hierarchy.begin(array).wait()
            return
        from mpi4py import MPI

        with self.inside("allreduce_sum", array.nbytes):
            self._meet()
            self._communicator.Allreduce(MPI.IN_PLACE, array, op=MPI.SUM)

    def allreduce_max(self, array: Array) -> None:
        """Replace `array` by its element-wise maximum over the ranks."""
        if self._communicator is None:
            return
        from mpi4py import MPI

        with self.inside("allreduce_max", array.nbytes):
            self._meet()
            self._communicator.Allreduce(MPI.IN_PLACE, array, op=MPI.MAX)

    def begin_sum(self, array: Array) -> Pending:
        """Begin `allreduce_sum`, without waiting for other ranks; `array` must stay as it is until then.

        All ranks must begin the same things in the same order; other collectives may come in between.
        A world of one has nothing to begin.
        """
        if self.hierarchy is not None and self.hierarchy.takes(array):
            return self.hierarchy.begin(array)
        from mpi4py import MPI

        return self._begin(array, MPI.SUM)

    def begin_max(self, array: Array) -> Pending:
        """Begin `allreduce_max`, as `begin_sum`."""
        from mpi4py import MPI

        return self._begin(array, MPI.MAX)

    def _begin(self, array: Array, operation: Any) -> Pending:
        from mpi4py import MPI

        number = self.timeline.begin("allreduce", time.perf_counter(), array.nbytes)
        with self.inside("begin_allreduce", array.nbytes):
            request = self._background.Iallreduce(MPI.IN_PLACE, array, op=operation)
        return Pending(array, request, self, number)

    def allreduce_mean(self, array: Array, weight: float = 1.0, total: float | None = None) -> None:
        """Replace float `array` by its mean over the ranks, weighted by each rank's `weight` (not negative).

        `total`, the sum of all weights, saves a message when it is known. With weights that sum to zero the
        array keeps its values.
        """
        if self._communicator is None:
            return
        if total is None:
            weights = np.array([weight])
            self.allreduce_sum(weights)
            total = float(weights[0])
        if total > 0:
            np.multiply(array, array.dtype.type(weight / total), out=array)
            self.allreduce_sum(array)

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace `array` on every rank by that of `root`."""
        if self._communicator is None:
            return
        with self.inside("broadcast", array.nbytes):
            self._meet()
            self._communicator.Bcast(array, root=root)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """The picklable `value` of rank `root`, on every rank."""
        if self._communicator is None:
            return value
        with self.inside("broadcast_object", 0):
            self._meet()
            value = self._communicator.bcast(value, root=root)
        return value

    def gather_object(self, value: Any, root: int = 0) -> list[Any] | None:
        """On rank `root` the picklable values of all ranks in rank order; None elsewhere."""
        if self._communicator is None:
            return [value]
        with self.inside("gather_object", 0):
            self._meet()
            gathered: list[Any] | None = self._communicator.gather(value, root=root)
        return gathered

    def allgather_object(self, value: Any) -> list[Any]:
        """The picklable values of all ranks in rank order, on every rank."""
        if self._communicator is None:
            return [value]
        with self.inside("allgather_object", 0):
            self._meet()
            gathered: list[Any] = self._communicator.allgather(value)
        return gathered

    def allgather_here(self, value: Any) -> list[Any]:
        """The picklable values of the ranks of this machine, in rank order, on each of them. Not counted.

        By the machine's name: MPI takes virtual nodes, and containers, for machines of their own.
        """
        if self._communicator is None:
            return [value]
        known = self._here.allgather((self.host, value))
        return [each for host, each in known if host == self.host]  # two names may have one checksum

    def exchange(self, outgoing: Mapping[int, Array], incoming: Mapping[int, Array]) -> None:
        """Send arrays to some ranks while others' arrive; only these ranks take part.

        Two ranks must exchange with each other in the same order. Counts a message for each array sent.

        Args:
            outgoing: by rank, what it gets; C-contiguous, of any type.
            incoming: by rank, where what it sends goes; as large as what is sent.
        """
        if not outgoing and not incoming:
            return

        with self.inside("exchange"):
            requests = [self._communicator.Irecv(array, source=rank) for rank, array in incoming.items()]
            requests += [self._communicator.Isend(array, dest=rank) for rank, array in outgoing.items()]
            for request in requests:
                self.wait_for(request)
        self.messages += len(outgoing)
        self.bytes_sent += sum(array.nbytes for array in outgoing.values())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self._communicator is None:
            return
        with self.inside("barrier", 0):
            self.wait_for(self._communicator.Ibarrier())

    def wait_for(self, request: Any) -> None:
        """Until an mpi4py request has completed.

        MPI waits busily. Where ranks are more than cores that takes a core from a rank that computes, so this
        sleeps between one look and the next.
        """
        if not self.crowded:
            request.Wait()
            return
        seconds = SHORTEST_SLEEP
        while not request.Test():
            time.sleep(seconds)
            seconds = min(2 * seconds, LONGEST_SLEEP)

    def _meet(self) -> None:
        """Before a collective in which MPI waits busily, wait for all ranks without that where it matters.

        The collective stays the same, and so do the bits that it gives.
        """
        if self.crowded:
            self.wait_for(self._meeting.Ibarrier())

    def abort(self, code: int = 1) -> None:
        """End every rank at once with exit code `code`, whatever they are doing."""
        if self._communicator is None:
            raise SystemExit(code)
        self._communicator.Abort(code)

    @contextlib.contextmanager
    def inside(self, collective: str, size: int | None = None) -> Iterator[None]:
        """Count what is done inside: its seconds and, with a `size` in bytes, one message."""
        if self.whole is not None:
            with self.whole.inside(collective, size):
                yield
            return
        self.progress.enter(collective)
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.seconds += ended - started
            self.progress.leave()
            self.timeline.collective(collective, started, ended, size)
        if size is not None:
            self.messages += 1
            self.bytes_sent += size


def connect() -> World:
    """The world this process belongs to, its size already checked (`check_world`).

    Without a launcher, or with one that started a single process, it is a world of one and mpi4py is not
    imported.

    Raises:
        DhhpcError: a launcher started several processes but mpi4py or its MPI library is missing, or the MPI
            world has another size.
    """
    launcher = detect_launcher(os.environ)
    if launcher.ranks == 1:
        return World(launcher=launcher)
    MPI = start_mpi(launcher)
    check_world(MPI.COMM_WORLD.Get_size(), launcher)
    return World(MPI.COMM_WORLD, launcher)


def check_world(size: int, launcher: Launcher) -> None:
    """Refuse an MPI world whose size is not what the launcher started.

    An MPI library that does not speak the launcher's protocol gives every process its own world of one,
    silently: each would then train the whole job and write the same files.

    Raises:
        DhhpcError: names both numbers and the mend.
    """
    if size == launcher.ranks:
        return
    world = f"the MPI world has {size} rank{'s' if size != 1 else ''}"
    if launcher.name == "srun":
        variable = "SLURM_NTASKS" if launcher.source == "SLURM_STEP_NUM_TASKS" else launcher.source
        said = f"SLURM started {launcher.ranks} tasks ({variable}={launcher.ranks})"
        mend = (
            "this MPI does not speak the launcher's protocol: use `srun --mpi=pmi2` with MPICH (the pip "
            "wheel is one), `srun --mpi=pmix` with Open MPI, or set `launcher` in the site config"
        )
    elif launcher.source == EXPECTED_RANKS:
        said = f"{launcher.ranks} were asked for ({launcher.source}={launcher.ranks})"
        mend = f"start {launcher.ranks} ranks with the mpiexec or srun of the MPI that mpi4py uses"
    else:
        said = f"{launcher.name} started {launcher.ranks} processes ({launcher.source}={launcher.ranks})"
        mend = "use the mpiexec of the MPI that mpi4py was built for"
    raise DhhpcError(f"{world} but {said}; {mend}")
