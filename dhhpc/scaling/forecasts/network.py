"""A described machine: what a forecast of training must know of nodes, network, disk, failures and prices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import pydantic

from dhhpc.documents import Document, read_document
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder
from dhhpc.scaling.collectives import Link, all_reduce_seconds, hierarchical_all_reduce_seconds

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1)]

HOUR = 3600.0


class LinkDocument(Document):
    """What joins two ranks: `latency` in seconds, `bandwidth` in bytes a second."""

    latency: NotNegative
    bandwidth: Positive

    @property
    def link(self) -> Link:
        return Link(self.latency, self.bandwidth)


class Memory(Document):
    """Of a node: `gigabytes` (1e9 bytes), and the `bandwidth` of all its cores together in bytes a second."""

    gigabytes: Positive
    bandwidth: Positive


class Storage(Document):
    """The file system that all ranks share.

    Attributes:
        bandwidth: bytes a second that the job gets when all its ranks write.
        node_bandwidth: bytes a second that one node can write at most.
        latency: seconds to make, sync and rename what a checkpoint consists of, whatever is in it.
    """

    bandwidth: Positive
    node_bandwidth: Positive
    latency: NotNegative = 0.0


class Machine(Document):
    """What a machine's YAML file holds.

    Attributes:
        nodes: how many a job may have.
        cores_per_node: of a node; more threads than that share them.
        ranks_per_node: as many are placed on a node before the next one is used.
        cores_per_rank: threads of a rank.
        relative_speed: of a core to one of the machine that was measured.
        within: two ranks of a node.
        across: a node and the network, shared by its ranks.
        overlap: the part of a collective that goes on while ranks compute; the rest takes their cores.
        memory: of a node.
        storage: where checkpoints go.
        node_mtbf_hours: mean time between failures of one node; unless given there are none.
        queue_seconds: waiting for the job's start.
        requeue_seconds: waiting for the start after a failure.
        startup_seconds: from the job's start to the first batch, beside what was measured.
        price_per_core_hour: of each core of each rank, in `currency`.
    """

    name: Annotated[str, pydantic.Field(min_length=1)]
    nodes: Count
    cores_per_node: Count
    ranks_per_node: Count
    cores_per_rank: Count = 1
    relative_speed: Positive = 1.0
    within: LinkDocument
    across: LinkDocument
    overlap: Annotated[float, pydantic.Field(ge=0, le=1)] = 1.0
    memory: Memory
    storage: Storage
    node_mtbf_hours: Positive | None = None
    queue_seconds: NotNegative = 0.0
    requeue_seconds: NotNegative = 0.0
    startup_seconds: NotNegative = 0.0
    price_per_core_hour: NotNegative | None = None
    currency: str = "EUR"

    @pydantic.model_validator(mode="after")
    def _check_checkpoints(self) -> Self:
        if self.storage.node_bandwidth > self.storage.bandwidth and self.nodes > 1:
            raise ValueError(
                f"storage.node_bandwidth {self.storage.node_bandwidth:g} is above storage.bandwidth "
                f"{self.storage.bandwidth:g}, which all nodes share; lower it"
            )
        return self

    @property
    def most_ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    def nodes_of(self, ranks: int) -> int:
        """The nodes that so many ranks take."""
        return -(-ranks // self.ranks_per_node)

    def on_a_node(self, ranks: int) -> int:
        """How many of `ranks` the fullest node has."""
        return min(ranks, self.ranks_per_node)

    def busy(self, ranks: int) -> float:
        """The share of a node's cores that compute, at most 1."""
        return min(1.0, self.on_a_node(ranks) * self.cores_per_rank / self.cores_per_node)

    def oversubscription(self, ranks: int) -> float:
        """How many threads share a core of the fullest node, at least 1."""
        return max(1.0, self.on_a_node(ranks) * self.cores_per_rank / self.cores_per_node)

    def mtbf(self, ranks: int) -> float:
        """Seconds between two failures of any of the nodes that so many ranks take; infinite without any."""
        if self.node_mtbf_hours is None:
            return float("inf")
        return self.node_mtbf_hours * HOUR / self.nodes_of(ranks)

    def sum_seconds(self, size: float, ranks: int, by_nodes: bool = False) -> float:
        """Seconds in which `ranks` ranks add up `size` bytes each once all are there.

        Args:
            by_nodes: through memory that the ranks of a node share (`parallel.hierarchy: nodes`). Else as MPI
                libraries do that know of nodes: the ranks of a node among each other, then the nodes.
        """
        nodes, together = self.nodes_of(ranks), self.on_a_node(ranks)
        if by_nodes:
            memory = Link(self.within.latency, self.memory.bandwidth)
            return hierarchical_all_reduce_seconds(size, nodes, together, memory, self.across.link)
        within = all_reduce_seconds(size, together, self.within.link)
        return within + all_reduce_seconds(size, nodes, self.across.link)

    def write_seconds(self, size: float, writers: int, ranks: int) -> float:
        """Seconds until `size` bytes that `writers` of the `ranks` ranks share lie on the disk.

        Writers lie as far from each other as can be, as those of checkpoints do.
        """
        nodes = min(writers, self.nodes_of(ranks))
        return self.storage.latency + size / min(self.storage.bandwidth, nodes * self.storage.node_bandwidth)

    def copy_seconds(self, size: float, ranks: int) -> float:
        """Seconds in which each rank of a full node copies `size` bytes: they are read and written."""
        return 2 * size * self.on_a_node(ranks) / self.memory.bandwidth


def read_machine(name: Path | str) -> Machine:
    """The machine that a YAML file describes, or a ready one by its name.

    Raises:
        DhhpcError: the file is missing or wrong, or a rank has more cores than a node.
    """
    path = Path(name)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        ready = resource_folder("scaling-studies") / "machines"
        path = ready / f"{name}.yml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in ready.glob("*.yml")))
            raise DhhpcError(f"--machine {name}: no such file or ready machine; there is {names}")
    machine = read_document(path, Machine)
    if machine.cores_per_rank > machine.cores_per_node:
        raise DhhpcError(
            f"{path}: cores_per_rank {machine.cores_per_rank} is above cores_per_node "
            f"{machine.cores_per_node}; lower it"
        )
    return machine
