"""What a user asks of a site, and whether the site can hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dhhpc.batch.duration import format_duration
from dhhpc.batch.site import REQUIRED, Node, Partition, Site, check_plain
from dhhpc.batch.site_layers import user_folder
from dhhpc.errors import DhhpcError

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_NAME = 100


@dataclass(frozen=True)
class JobRequest:
    """One run of dhhpc as a batch job.

    Attributes:
        arguments: the command line after `dhhpc`, e.g. ("train", "/data/experiment.yml", "--resume").
        name: shown by the scheduler; any printable text.
        folder: absolute path of the folder the command runs in.
        nodes, ranks_per_node: how the MPI ranks are laid out.
        threads: cores (and threads) of each rank; None shares a node's cores among its ranks.
        seconds: the time limit; None for none (local sites only).
        partition, account, qos: None for the site's own.
        gpus: graphics processors of each node; None for all that it has.
        memory_gb: memory of each node in GiB; None for what the scheduler gives.
        tasks: parts that the command can be divided into: a job array where the scheduler has such, each part
            with nodes, ranks and time of its own. None, and on local sites: the command as a whole.
        at_once: how many tasks may run at the same time; None for as many as the scheduler likes.
        task_option: the option that tells the command its part, numbered from 0.
        kind: which template of `jobs` makes its script: "train", "preprocess", "evaluate", "scale" or
            "command", which is one process.
        requeues: how often a job that was stopped with work left is queued again.
        after: ids of jobs that must have completed before.
        however: those jobs need only be over, whatever became of them.
        stage: whether the command copies the shards it reads to `node_local` of the site first (train and
            evaluate); None where the site has that.
    """

    arguments: tuple[str, ...]
    name: str
    folder: str
    nodes: int = 1
    ranks_per_node: int = 1
    threads: int | None = None
    seconds: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int | None = None
    memory_gb: float | None = None
    tasks: int | None = None
    at_once: int | None = None
    task_option: str = "--member"
    kind: str = "train"
    requeues: int = 0
    after: tuple[str, ...] = ()
    however: bool = False
    stage: bool | None = None

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


def fit_request(request: JobRequest, site: Site) -> JobRequest:
    """`request` with the partition, time limit, account, QOS, threads and graphics processors of the site.

    Raises:
        DhhpcError: the site cannot hold the request; names the option and the nearest valid choice.
    """
    check_name(request.name)
    if site.container is not None and re.search(r"[:,]", request.folder):
        raise DhhpcError(
            f"{request.folder}: cannot be shown inside the container of site {site.name}, for its : or ,; "
            f"submit from another folder"
        )
    for option, value in (("--nodes", request.nodes), ("--ranks-per-node", request.ranks_per_node)):
        if value < 1:
            raise DhhpcError(f"{option} {value}: must be at least 1")
    if request.requeues < 0:
        raise DhhpcError(f"--requeue {request.requeues}: must be at least 0")
    if request.at_once is not None and request.tasks is None:
        raise DhhpcError(f"--at-once {request.at_once}: this is one job, no array; drop --at-once")
    if request.at_once is not None and request.at_once < 1:
        raise DhhpcError(f"--at-once {request.at_once}: must be at least 1")
    if request.stage and site.node_local is None:
        raise DhhpcError(
            f"--stage: site {site.name} has no node_local, a folder on a disk of each node's own; drop "
            f"--stage, or give one with --set node_local=FOLDER"
        )
    if request.memory_gb is not None and request.memory_gb <= 0:
        raise DhhpcError(f"--memory {request.memory_gb:g}: must be above 0")
    if site.scheduler == "local":
        return fit_local(request, site)
    if site.scheduler == "pbs" and request.qos is not None:
        raise DhhpcError(f"--qos {request.qos}: site {site.name} is of PBS, which has none; drop --qos")
    for option, name in (("--partition", request.partition), ("--account", request.account)):
        check_option(option, name)
    check_option("--qos", request.qos)
    partition = site.partition(request.partition)
    check_memory(request, site, partition)
    account = chosen("account", request.account, site.account, site)
    qos = chosen("qos", request.qos, (partition.qos if partition else None) or site.qos, site)
    if partition is not None:
        if request.seconds is None:
            request = replace(request, seconds=partition.default_time)
        check_limits(request, site, partition, qos)
    elif request.seconds is None:
        raise DhhpcError(f"--time: is missing; give for instance --time {format_duration(3600)}")
    return replace(
        request,
        partition=partition.name if partition else request.partition or site.default_partition,
        account=account,
        qos=qos,
        threads=fit_threads(request, site, partition),
        gpus=fit_gpus(request, site, partition),
    )


def chosen(key: str, wish: str | None, default: str | None, site: Site) -> str | None:
    """The user's account or QOS, or the site's.

    Raises:
        DhhpcError: the site needs one, and neither tells it.
    """
    if wish is None and default == REQUIRED:
        raise DhhpcError(
            f"--{key}: is missing, and site {site.name} needs one; give --{key} NAME, or write "
            f"`extends: {site.name}` and `{key}: NAME` into {user_folder() / f'{site.name}.yml'}"
        )
    return wish or default


def check_limits(request: JobRequest, site: Site, partition: Partition, qos: str | None) -> None:
    """Refuse what the partition does not allow under that QOS."""
    fewest, most, longest = partition.limits(qos)
    place = f"partition {partition.name} of site {site.name}" + (f" under QOS {qos}" if qos else "")
    if request.seconds is None:
        raise DhhpcError(
            f"--time: is missing; {place} takes at most {format_duration(longest)}: "
            f"give for instance --time {format_duration(min(longest, 3600))}"
        )
    if request.seconds > longest:
        raise DhhpcError(
            f"--time {format_duration(request.seconds)}: {place} takes at most {format_duration(longest)}; "
            + alternatives(f"--time {format_duration(longest)}", roomier(site, partition, request))
        )
    if request.nodes > most:
        raise DhhpcError(
            f"--nodes {request.nodes}: {place} gives a job at most {most}; "
            + alternatives(f"--nodes {most}", roomier(site, partition, request))
        )
    if request.nodes < fewest:
        raise DhhpcError(
            f"--nodes {request.nodes}: {place} takes jobs of at least {fewest}; "
            + alternatives(f"--nodes {fewest}", roomier(site, partition, request))
        )


def fit_local(request: JobRequest, site: Site) -> JobRequest:
    wishes = {
        "--partition": request.partition,
        "--account": request.account,
        "--qos": request.qos,
        "--gpus": request.gpus,
        "--memory": request.memory_gb,
    }
    for option, value in wishes.items():
        if value is not None:
            raise DhhpcError(
                f"{option} {value}: site {site.name} runs jobs on this machine and has none; drop {option}"
            )
    if request.nodes > 1:
        raise DhhpcError(
            f"--nodes {request.nodes}: site {site.name} is this one machine; use --nodes 1 --ranks-per-node "
            f"{request.ranks}, or another site"
        )
    if request.at_once is not None:
        raise DhhpcError(
            f"--at-once {request.at_once}: site {site.name} runs the members of a series one after another; "
            f"drop --at-once"
        )
    return replace(request, threads=fit_threads(request, site, None), tasks=None)


def fit_threads(request: JobRequest, site: Site, partition: Partition | None) -> int:
    """The threads of each rank, within a node's cores."""
    node = site.node_of(partition)
    if node is None:
        if request.threads is None:
            raise DhhpcError(
                f"--threads: is missing, and site {site.name} does not tell the cores of a node; give the "
                f"cores of each rank, or --set node.cores=N"
            )
        return positive("--threads", request.threads)
    cores = node.cores
    place = node_place(site, partition)
    if request.ranks_per_node > cores:
        raise DhhpcError(
            f"--ranks-per-node {request.ranks_per_node}: {place} has {cores} cores; "
            f"use --ranks-per-node {cores}"
        )
    share = cores // request.ranks_per_node
    if request.threads is None:
        return share
    if positive("--threads", request.threads) > share:
        raise DhhpcError(
            f"--threads {request.threads}: {place} has {cores} cores for {request.ranks_per_node} ranks; "
            f"use --threads {share}"
        )
    return request.threads


def check_memory(request: JobRequest, site: Site, partition: Partition | None) -> None:
    """Refuse more memory than a node has, where the site tells that."""
    node = site.node_of(partition)
    has = node.memory_gb if node is not None else None
    if has is not None and request.memory_gb is not None and request.memory_gb > has:
        raise DhhpcError(
            f"--memory {request.memory_gb:g}: {node_place(site, partition)} has {has:g} GiB; "
            f"use --memory {has:g}"
        )


def fit_gpus(request: JobRequest, site: Site, partition: Partition | None) -> int:
    """The graphics processors of each node."""
    node = site.node_of(partition) or Node(cores=1)
    if request.gpus is None:
        return node.gpus
    if request.gpus < 0:
        raise DhhpcError(f"--gpus {request.gpus}: must be at least 0")
    if request.gpus > node.gpus and (partition is not None or site.node is not None):
        raise DhhpcError(
            f"--gpus {request.gpus}: {node_place(site, partition)} has {node.gpus}; use --gpus {node.gpus}"
        )
    return request.gpus


def node_place(site: Site, partition: Partition | None) -> str:
    return f"a node of partition {partition.name} of site {site.name}" if partition else f"site {site.name}"


def positive(option: str, value: int) -> int:
    if value < 1:
        raise DhhpcError(f"{option} {value}: must be at least 1")
    return value


def roomier(site: Site, partition: Partition, request: JobRequest) -> str | None:
    """The option that names a QOS of this partition, or the first partition, which holds the request."""

    def holds(place: Partition, qos: str | None) -> bool:
        fewest, most, longest = place.limits(qos)
        return fewest <= request.nodes <= most and (request.seconds or 0) <= longest

    for qos in partition.qos_limits:
        if holds(partition, qos.name):
            return f"--qos {qos.name}"
    for other in site.partitions:
        if other is not partition and holds(other, other.qos or site.qos):
            return f"--partition {other.name}"
    return None


def alternatives(smaller: str, other: str | None) -> str:
    return f"use {smaller}" + (f" or {other}" if other else "")


def check_name(name: str) -> None:
    """Refuse job names that no scheduler's one-line listing could show."""
    if CONTROL_CHARACTER.search(name) or not name.strip() or len(name.encode()) > LONGEST_NAME:
        raise DhhpcError(
            f"--name {name!r}: must be one line of printable text of at most {LONGEST_NAME} bytes; "
            f"choose another"
        )


def check_option(option: str, value: str | None) -> None:
    try:
        if value is not None:
            check_plain(value)
    except ValueError as error:
        raise DhhpcError(f"{option} {error}") from None
