"""What to ask a batch system for: nodes, memory and time of a training, from a rehearsal of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dhhpc.batch.duration import format_duration
from dhhpc.batch.request import JobRequest, fit_request
from dhhpc.batch.script import LEAD
from dhhpc.batch.site import Partition, Site
from dhhpc.errors import DhhpcError
from dhhpc.scaling.resources.allocation import HOUR, Kind, Work, forecast
from dhhpc.scaling.resources.rehearsal import Rehearsal
from dhhpc.scaling.resources.traffic import ASSUMED, Network, averaging_seconds
from dhhpc.training.footprint import Counting
from dhhpc.training.network import CreateNetwork
from dhhpc.training.preparation import check

GIB = 2**30
# What is asked for is so many times what is expected: for nodes slower than the rehearsal's, other jobs on
# disk and network, and memory that allocators do not give back.
TIME_MARGIN, MEMORY_MARGIN = 1.5, 1.15
# Limits are rounded up to these: seconds, and parts of a GiB.
TIME_STEP, MEMORY_STEP = 300, 4
# So many numbers of nodes are looked at unless the user names them.
MOST_ROWS = 5


@dataclass(frozen=True)
class Figures:
    """What a number of nodes takes.

    Attributes:
        batch: samples that a rank has of a whole batch, at most.
        rank_bytes, first_rank_bytes: estimated for a rank, and for rank 0.
        node_bytes: for the node of rank 0.
        memory_gb: to ask for, of each node, with the margin.
        averaging_seconds: modelled, for each batch.
        epoch_seconds: of an epoch with its validation.
        seconds: of the run with start-up, again for each time that it is queued again.
        core_hours: of that.
        expected_seconds: the same with the margin.
        time_seconds: the limit to ask for; None where no job is long enough to get anywhere.
        requeues: how often it must be queued again.
    """

    batch: int
    rank_bytes: int
    first_rank_bytes: int
    node_bytes: int
    memory_gb: float
    averaging_seconds: float
    epoch_seconds: float
    seconds: float
    core_hours: float
    expected_seconds: float
    time_seconds: int | None
    requeues: int


@dataclass(frozen=True)
class Row:
    """One number of nodes: its figures, unless it cannot train the experiment, and why it does not fit."""

    nodes: int
    ranks: int
    figures: Figures | None
    problem: str | None


@dataclass(frozen=True)
class Place:
    """Where a job shall run: a site, what the user asks of it, and what comes of that.

    Attributes:
        asked: with the user's options; of one node.
        fewest, most: nodes of a job.
        longest: seconds of a job.
        partition: that it goes to.
        threads: cores of each rank.
    """

    site: Site
    asked: JobRequest
    partition: Partition
    fewest: int
    most: int
    longest: int
    threads: int


def place_of(request: JobRequest, site: Site) -> Place:
    """The place for jobs like `request`, whose nodes and time do not matter.

    Raises:
        DhhpcError: the site has no partitions, or cannot hold what the user asks for.
    """
    partition = site.partition(request.partition) if site.scheduler != "local" else None
    if partition is None:
        mend = (
            "start training there with `dhhpc train`"
            if site.scheduler == "local"
            else "add its `partitions` to its config, with their max_nodes and max_time"
        )
        raise DhhpcError(f"--site {site.name}: has no partitions, so no limits to suggest within; {mend}")
    fewest, _, longest = partition.limits(request.qos or partition.qos or site.qos)
    asked = replace(request, nodes=fewest, seconds=min(longest, TIME_STEP))
    fitted = fit_request(asked, site)
    fewest, most, longest = partition.limits(fitted.qos)
    assert fitted.threads is not None
    return Place(site, asked, partition, fewest, most, longest, fitted.threads)


def nodes_to_try(place: Place) -> list[int]:
    """The fewest that a job may have, and twice as many again and again."""
    counts = [place.fewest * 2**power for power in range(MOST_ROWS)]
    return [count for count in counts if count <= place.most]


def check_ranks(counting: Counting, ranks: int, create: CreateNetwork) -> str | None:
    """Why so many ranks cannot train the experiment."""
    try:
        check(counting.experiment, ranks, create)
    except DhhpcError as error:
        return str(error)
    return None


def suggest(
    counting: Counting,
    rehearsal: Rehearsal,
    place: Place,
    nodes: Sequence[int],
    create: CreateNetwork,
    network: Network = ASSUMED,
) -> list[Row]:
    """A row for each number of nodes."""
    rows = []
    for count in nodes:
        ranks = count * place.asked.ranks_per_node
        problem = check_ranks(counting, ranks, create)
        if problem is not None:
            rows.append(Row(count, ranks, None, problem))
            continue
        figures = figures_of(counting, rehearsal, place, count, network)
        rows.append(Row(count, ranks, figures, problem_of(place, count, figures)))
    return rows


def figures_of(
    counting: Counting, rehearsal: Rehearsal, place: Place, nodes: int, network: Network
) -> Figures:
    """What so many nodes take."""
    per_node = place.asked.ranks_per_node
    ranks = nodes * per_node
    footprint = counting.of(ranks)
    process = rehearsal.process_bytes + ((rehearsal.mpi_bytes or 0) if ranks > 1 else 0)
    first, other = process + footprint.first, process + footprint.other
    node_bytes = first + (per_node - 1) * other
    averaging = averaging_seconds(counting, nodes, per_node, network)
    work = work_of(counting, rehearsal, averaging)
    kind = Kind(
        name="rank",
        pace=rehearsal.pace,
        validation_pace=rehearsal.validation_pace or 0.0,
        cores=place.threads,
        together=per_node,
        available=nodes,
    )
    choice = forecast([kind], (ranks,), [work.batch(ranks)], work)
    time_seconds, requeues = limits_of(choice.seconds, rehearsal.startup_seconds, place.longest)
    seconds = choice.seconds + requeues * rehearsal.startup_seconds
    return Figures(
        batch=counting.batch(ranks),
        rank_bytes=other,
        first_rank_bytes=first,
        node_bytes=node_bytes,
        memory_gb=math.ceil(MEMORY_STEP * MEMORY_MARGIN * node_bytes / GIB) / MEMORY_STEP,
        averaging_seconds=averaging,
        epoch_seconds=choice.epoch_seconds,
        seconds=seconds,
        core_hours=seconds * ranks * place.threads / HOUR,
        expected_seconds=TIME_MARGIN * seconds,
        time_seconds=time_seconds,
        requeues=requeues,
    )


def work_of(counting: Counting, rehearsal: Rehearsal, averaging: float) -> Work:
    """The whole training, where what ranks do beside batches is as in the rehearsal."""
    experiment = counting.experiment
    return Work(
        samples=counting.samples,
        images=counting.shards.count("validation"),
        epochs=experiment.epochs,
        batch_size=experiment.batch_size,
        divided=experiment.parallel.batch == "divide",
        meeting=lambda ranks: averaging,
        epoch_seconds=rehearsal.epoch_seconds,
        once_seconds=rehearsal.once_seconds + rehearsal.startup_seconds,
    )


def limits_of(seconds: float, startup: float, longest: int) -> tuple[int | None, int]:
    """The time limit of a job, and how often it must be queued again, for a training of `seconds` with its
    first start-up.

    Each job starts up, and stops with a checkpoint when it is told that its time is nearly up.

    Args:
        longest: seconds that a job may take.

    Returns:
        None and 0 where a job would be told before it has started up.
    """
    needed = TIME_MARGIN * seconds
    if needed <= longest:
        return min(longest, TIME_STEP * math.ceil(needed / TIME_STEP)), 0
    useful = longest - min(LEAD, longest // 4) - TIME_MARGIN * startup
    if useful <= 0:
        return None, 0
    return longest, math.ceil(TIME_MARGIN * (seconds - startup) / useful) - 1


def problem_of(place: Place, nodes: int, figures: Figures) -> str | None:
    """Why the site cannot hold it."""
    if figures.time_seconds is None:
        return (
            f"partition {place.partition.name}: a job of at most {format_duration(place.longest)} ends "
            f"before the training has started up"
        )
    asked = replace(place.asked, nodes=nodes, seconds=figures.time_seconds, memory_gb=figures.memory_gb)
    try:
        fit_request(asked, place.site)
    except DhhpcError as error:
        return str(error)
    return None


def recommended(rows: Sequence[Row], deadline: float | None) -> int | None:
    """The number of the row to take, None where none will do: of those that fit, the one of fewest
    core-hours, then of fewest nodes, among those that with the margin meet the deadline; without one among
    those that a single job can hold, or all if there are none."""
    fitting = [
        (number, row.figures)
        for number, row in enumerate(rows)
        if row.figures is not None and row.problem is None
    ]
    if deadline is None:
        wanted = [(number, each) for number, each in fitting if not each.requeues] or fitting
    else:
        wanted = [(number, each) for number, each in fitting if each.expected_seconds <= deadline]
    best = min(wanted, key=lambda pair: (pair[1].core_hours, rows[pair[0]].nodes), default=None)
    return None if best is None else best[0]
