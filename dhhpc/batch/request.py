"""What a user asks of a site, and whether the site can hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dhhpc.batch.duration import format_duration
from dhhpc.batch.site import Partition, Site, check_plain
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
        partition, account: None for the site's own.
        tasks: parts that the command can be divided into: a job array where the scheduler has such, each part
            with nodes, ranks and time of its own. None, and on local sites: the command as a whole.
        at_once: how many tasks may run at the same time; None for as many as the scheduler likes.
        task_option: the option that tells the command its part, numbered from 0.
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
    tasks: int | None = None
    at_once: int | None = None
    task_option: str = "--member"

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


def fit_request(request: JobRequest, site: Site) -> JobRequest:
    """`request` with the site's partition, account and threads filled in.

    Raises:
        DhhpcError: the site cannot hold the request; names the option and the nearest valid choice.
    """
    check_name(request.name)
    for option, value in (("--nodes", request.nodes), ("--ranks-per-node", request.ranks_per_node)):
        if value < 1:
            raise DhhpcError(f"{option} {value}: must be at least 1")
    if request.at_once is not None and request.tasks is None:
        raise DhhpcError(f"--at-once {request.at_once}: this is one job, no array; drop --at-once")
    if request.at_once is not None and request.at_once < 1:
        raise DhhpcError(f"--at-once {request.at_once}: must be at least 1")
    if site.scheduler == "local":
        return fit_local(request, site)
    partition = site.partition(request.partition)
    if request.seconds is None:
        limit = format_duration(partition.max_time)
        raise DhhpcError(
            f"--time: is missing; partition {partition.name} of site {site.name} takes at most {limit}: "
            f"give for instance --time {format_duration(min(partition.max_time, 3600))}"
        )
    if request.seconds > partition.max_time:
        raise DhhpcError(
            f"--time {format_duration(request.seconds)}: partition {partition.name} of site {site.name} "
            f"takes at most {format_duration(partition.max_time)}; "
            + alternatives(f"--time {format_duration(partition.max_time)}", roomier(site, request))
        )
    if request.nodes > partition.max_nodes:
        raise DhhpcError(
            f"--nodes {request.nodes}: partition {partition.name} of site {site.name} gives a job at most "
            f"{partition.max_nodes}; "
            + alternatives(f"--nodes {partition.max_nodes}", roomier(site, request))
        )
    account = request.account or site.account
    if account is not None:
        check_option("--account", account)
    threads = fit_threads(request, site, partition)
    return replace(request, partition=partition.name, account=account, threads=threads)


def fit_local(request: JobRequest, site: Site) -> JobRequest:
    for option, value in (("--partition", request.partition), ("--account", request.account)):
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
    cores = site.node_of(partition).cores
    place = f"a node of partition {partition.name} of site {site.name}" if partition else f"site {site.name}"
    if request.ranks_per_node > cores:
        raise DhhpcError(
            f"--ranks-per-node {request.ranks_per_node}: {place} has {cores} cores; "
            f"use --ranks-per-node {cores}"
        )
    share = cores // request.ranks_per_node
    if request.threads is None:
        return share
    if request.threads < 1:
        raise DhhpcError(f"--threads {request.threads}: must be at least 1")
    if request.threads > share:
        raise DhhpcError(
            f"--threads {request.threads}: {place} has {cores} cores for {request.ranks_per_node} ranks; "
            f"use --threads {share}"
        )
    return request.threads


def roomier(site: Site, request: JobRequest) -> str | None:
    """The first partition whose time and nodes hold the request."""
    for partition in site.partitions:
        if request.nodes <= partition.max_nodes and (request.seconds or 0) <= partition.max_time:
            return partition.name
    return None


def alternatives(smaller: str, partition: str | None) -> str:
    return f"use {smaller}" + (f" or --partition {partition}" if partition else "")


def check_name(name: str) -> None:
    """Refuse job names that no scheduler's one-line listing could show."""
    if CONTROL_CHARACTER.search(name) or not name.strip() or len(name.encode()) > LONGEST_NAME:
        raise DhhpcError(
            f"--name {name!r}: must be one line of printable text of at most {LONGEST_NAME} bytes; "
            f"choose another"
        )


def check_option(option: str, value: str) -> None:
    try:
        check_plain(value)
    except ValueError as error:
        raise DhhpcError(f"{option} {error}") from None
