"""Which points of a study have room on their number of nodes: at a site, or in the allocation at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dhhpc.batch.site import Site
from dhhpc.errors import DhhpcError
from dhhpc.mpi import allocated_nodes
from dhhpc.scaling.studies.study import Study
from dhhpc.scaling.studies.tasks import Task, layout, undivided

UNEQUAL = "not equally many on each node"


@dataclass(frozen=True)
class Room:
    """What there is for a point.

    Attributes:
        place: of what, for people.
        fewest, most: nodes of a job; None for as many as one likes.
        cores: of a node; None where that is unknown.
    """

    place: str
    fewest: int = 1
    most: int | None = None
    cores: int | None = None

    def lacks(self, task: Task, threads: int) -> str | None:
        """Why a point has no room, in words; None if it has, or its study does not say on how many nodes.

        Args:
            threads: of each rank, for each of which there must be a core.
        """
        if task.nodes is None or task.ranks_per_node is None:
            return None
        if self.most is not None and task.nodes > self.most:
            return f"{self.place} gives at most {counted(self.most, 'node')}"
        if task.nodes < self.fewest:
            return f"{self.place} takes jobs of at least {counted(self.fewest, 'node')}"
        if self.cores is not None and task.ranks_per_node * threads > self.cores:
            return f"a node of {self.place} has {counted(self.cores, 'core')}"
        return None


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


def room_at(site: Site, partition: str | None, qos: str | None) -> Room:
    """What jobs of a site may have.

    Args:
        partition, qos: None for the site's own.

    Raises:
        DhhpcError: the site has no such partition.
    """
    chosen = site.partition(partition)
    node = site.node_of(chosen)
    cores = node.cores if node is not None else None
    if site.scheduler == "local":
        return Room(f"site {site.name}", most=1, cores=cores)
    if chosen is None:
        return Room(f"site {site.name}", cores=cores)
    fewest, most, _ = chosen.limits(qos or chosen.qos or site.qos)
    return Room(f"partition {chosen.name} of site {site.name}", fewest, most, cores)


def room_here(study_file: Path, tasks: Sequence[Task], environment: Mapping[str, str]) -> Room:
    """What this process may start ranks on: the nodes of its allocation, or this machine.

    Raises:
        DhhpcError: some point is of several nodes, and there is no allocation.
    """
    nodes = allocated_nodes(environment)
    most = max((task.nodes or 1 for task in tasks), default=1)
    if nodes is None and most > 1:
        raise DhhpcError(
            f"{study_file}: nodes {most}: this is one machine, and no allocation of several nodes; measure "
            f"the study with `dhhpc submit scale {study_file} --site SITE`"
        )
    return Room("this allocation", most=nodes or 1)


def told(study: Study, lacking: Mapping[Task, str]) -> str | None:
    """One line on all that is left out, and why; None if nothing is.

    Args:
        lacking: the points that have no room, with the reason of each.
    """
    by_reason: dict[str, dict[str, None]] = {}
    for words in undivided(study):
        by_reason.setdefault(UNEQUAL, {})[words] = None
    for task, reason in lacking.items():
        by_reason.setdefault(reason, {})[layout(task.ranks, task.nodes, task.threads)] = None
    if not by_reason:
        return None
    return "left out: " + "; ".join(f"{', '.join(words)} ({reason})" for reason, words in by_reason.items())


def named_points(names: Sequence[str], tasks: Sequence[Task]) -> list[Task]:
    """The points of these names, with all their repeats.

    Raises:
        DhhpcError: the study has no such point.
    """
    known = dict.fromkeys(task.point for task in tasks)
    for name in names:
        if name not in known:
            raise DhhpcError(
                f"--leave-out {name}: the study has no such point; its points: {', '.join(known)}"
            )
    return [task for task in tasks if task.point in names]
