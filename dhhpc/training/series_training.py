"""Training the members of a series one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, failed_alike
from dhhpc.training.network import CreateNetwork
from dhhpc.training.preparation import check
from dhhpc.training.running import train
from dhhpc.training.series import Member, Series
from dhhpc.training.series_summary import write_summary
from dhhpc.training.staging import Staging
from dhhpc.training.stopping import Stopped, StopRequest, stopping_on_signals
from dhhpc.training.trainer import Listener, ignore


def train_series(
    series: Series,
    world: World,
    create: CreateNetwork,
    resume: bool = False,
    listen: Listener = ignore,
    only: int | None = None,
    stop: StopRequest | None = None,
    staging: Staging | None = None,
) -> list[str]:
    """Train the members one after another, each on all ranks, into run folders of their own.

    A member that fails on all ranks alike (a loss that is no number) does not keep the others from being
    trained. With `resume`, finished members are passed over, those cut off go on, and failed ones are tried
    again when all others are finished.

    Args:
        series: its folder is made.
        world: all its ranks call this with equal arguments.
        create: `dhhpc.zoo.create`.
        listen: on rank 0, as for `train`, and with "member" and "failure".
        only: train this member alone, numbered from 0 as the tasks of a job array.
        stop: also hears of signals, and may have heard of one before.
        staging: the copies of the shards on the nodes, which are read instead.

    Returns:
        The names of the members that failed.

    Raises:
        DhhpcError: as `Series.claim` and `check`; or a member failed, and not on all ranks alike.
        Stopped: as `train`; the members that come after are not begun.
    """
    members = series.members
    if only is not None and not 0 <= only < len(members):
        raise DhhpcError(f"--member {only}: the series has the members 0 to {len(members) - 1}")
    listen = listen if world.rank == 0 else ignore
    check(members[only or 0].experiment, world.size, create, staging)
    problem: str | None = None
    todo: list[int] = []
    if world.rank == 0:
        try:
            series.claim(resume)
            todo = [number for number in unfinished(series) if only is None or number == only]
        except DhhpcError as error:
            problem = str(error)
    problem, todo = world.broadcast_object((problem, todo))
    if problem:
        raise DhhpcError(problem)
    try:
        return train_members(members, todo, world, create, listen, stop or StopRequest(), staging)
    finally:
        if world.rank == 0:
            with contextlib.suppress(DhhpcError):  # what ended the training is the one to tell
                write_summary(series.folder)


def train_members(
    members: Sequence[Member],
    todo: Sequence[int],
    world: World,
    create: CreateNetwork,
    listen: Listener,
    stop: StopRequest,
    staging: Staging | None,
) -> list[str]:
    """Train the members of the numbers `todo`; returns the names of those that failed."""
    failed: list[str] = []
    with stopping_on_signals(stop):
        for number in todo:
            member = members[number]
            if stop_agreed(stop, world):
                listen("stop", {})
                raise Stopped
            listen("member", {"name": member.name, "number": number, "members": len(members)})
            try:
                train(member.experiment, world, create, True, listen, stop, staging)
            except DhhpcError as error:
                if len(todo) == 1 or not failed_alike(world, str(error)):
                    raise
                failed.append(member.name)
                listen("failure", {"name": member.name, "message": str(error)})
    return failed


def unfinished(series: Series) -> list[int]:
    """The members to be trained: those that failed come last, lest one keeps the others waiting for ever."""
    statuses = [series.status(member) for member in series.members]
    todo = [number for number, status in enumerate(statuses) if status != "finished"]
    return sorted(todo, key=lambda number: statuses[number] == "failed")


def stop_agreed(stop: StopRequest, world: World) -> bool:
    """Whether a signal has reached any rank; the same on all of them."""
    wish = np.array([stop.stop_requested], np.int64)
    world.allreduce_max(wish)
    return bool(wish[0])
