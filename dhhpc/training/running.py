"""`train`: one run from its experiment to its run folder, watched over and ready to stop on a signal."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from dhhpc.mpi import Hierarchy, World, alone_in, watching
from dhhpc.training.experiment import Experiment
from dhhpc.training.method import Method
from dhhpc.training.network import CreateNetwork
from dhhpc.training.run_record import RunRecord, record_lost
from dhhpc.training.staging import Staging
from dhhpc.training.stopping import Stopped, StopRequest, stopping_on_signals
from dhhpc.training.trainer import COMPILING, Listener, Trainer, ignore


def train(
    experiment: Experiment,
    world: World,
    create: CreateNetwork,
    resume: bool = False,
    listen: Listener = ignore,
    stop: StopRequest | None = None,
    staging: Staging | None = None,
) -> RunRecord:
    """Train, and leave the run folder with its record, checkpoints, metrics, model.npz and model.onnx.

    Args:
        experiment: what to train; its `folder` becomes the run folder.
        world: all its ranks call this with equal arguments.
        create: makes the network, `dhhpc.zoo.create`.
        resume: go on from the newest whole checkpoint of the run folder (from the start if there is none).
            On as many ranks the result is that of a run never interrupted, bit for bit.
        listen: called on rank 0 with the events "start", "warning", "batch", "epoch", "checkpoint", "stop",
            "end" and their values.
        stop: also hears of signals, and may have heard of one before this run began.
        staging: the copies of the shards on the nodes, which are read instead.

    Raises:
        DhhpcError: see `check`; a loss that is no number; a run folder of an earlier run without `resume`, or
            that another process trains into; a resumed experiment that differs; a full disk.
        Stopped: SIGTERM or SIGUSR1 came; a checkpoint is written.
    """
    hear = listen if world.rank == 0 else ignore
    world.progress.at("its preparation")
    world.progress.patience = COMPILING
    lost = functools.partial(record_lost, experiment.folder)

    def warn(line: str) -> None:
        hear("warning", {"message": line})

    with (
        watching(world, experiment.watch.timeout, lost, warn),
        # A job that was queued again, say, while its first ranks still train, cut off from the rest.
        alone_in(experiment.folder, world, warn),
        arranged(world, experiment.parallel),
    ):
        trainer = Trainer(experiment, world, create, hear, staging)
        with stopping_on_signals(trainer.meeting, *([stop] if stop else [])):
            trainer.meeting.stop_requested |= stop is not None and stop.stop_requested
            return trainer.run(resume)


@contextlib.contextmanager
def arranged(world: World, parallel: Method) -> Iterator[None]:
    """While inside, the world sums by nodes where the experiment wants that.

    After an error, which others may not have met, the memory that ranks share goes with their processes.
    """
    if parallel.hierarchy == "flat" or world.size == 1:
        yield
        return
    world.hierarchy = hierarchy = Hierarchy(world, parallel.ranks_per_node)
    together = False
    try:
        yield
        together = True
    except Stopped:
        together = True
        raise
    finally:
        world.hierarchy = None
        if together:
            hierarchy.free()
