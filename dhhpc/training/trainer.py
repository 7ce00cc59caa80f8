"""Training: every rank back-propagates its part of each batch, and the ranks learn together."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dhhpc.data.loader import Batch, Loader
from dhhpc.eddl import NotFiniteError
from dhhpc.eddl.finiteness import not_finite_state
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder
from dhhpc.training.divergence import in_batch, with_mend
from dhhpc.training.evaluation import evaluate
from dhhpc.training.experiment import Experiment
from dhhpc.training.meeting import Meeting
from dhhpc.training.metrics import without_details
from dhhpc.training.network import CreateNetwork, create_network, use_threads
from dhhpc.training.preparation import check, warm_up
from dhhpc.training.resumption import take_up
from dhhpc.training.run_record import SCHEMA_VERSION, RunRecord, now, provenance
from dhhpc.training.stopping import Stopped, StopRequest, stopping_on_signals

Listener = Callable[[str, dict[str, Any]], None]


def ignore(event: str, values: dict[str, Any]) -> None:
    """A listener that does nothing."""


def train(
    experiment: Experiment,
    world: World,
    create: CreateNetwork,
    resume: bool = False,
    listen: Listener = ignore,
    stop: StopRequest | None = None,
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

    Raises:
        DhhpcError: see `check`; a loss that is no number; a run folder in use without `resume`; a resumed
            experiment that differs; a full disk.
        Stopped: SIGTERM or SIGUSR1 came; a checkpoint is written.
    """
    trainer = Trainer(experiment, world, create, listen if world.rank == 0 else ignore)
    with stopping_on_signals(trainer.meeting, *([stop] if stop else [])):
        trainer.meeting.stop_requested |= stop is not None and stop.stop_requested
        return trainer.run(resume)


class Trainer:
    """One run on this rank."""

    def __init__(
        self, experiment: Experiment, world: World, create: CreateNetwork, listen: Listener = ignore
    ) -> None:
        self.experiment, self.world, self.listen = experiment, world, listen
        self.sent_before = world.messages, world.bytes_sent
        self.record = RunRecord(experiment.folder, writes=world.rank == 0)
        self.folder = CheckpointFolder(self.record.checkpoints, experiment.checkpoint.keep)
        self.shards = check(experiment, world.size, create)
        self.threads = use_threads(world, experiment.threads)
        self.batch_size = experiment.rank_batch_size(world.size)
        self.loader = Loader(
            self.shards,
            "training",
            self.batch_size,
            world.rank,
            world.size,
            experiment.seed,
            experiment.data.patch,
            experiment.augmentations,
            threads=experiment.data.threads,
        )
        self.model = create_network(experiment, self.shards, create)
        self.optimizer = experiment.optimizer.create()
        self.model.build(
            self.optimizer,
            [experiment.loss],
            experiment.metrics,
            seed=experiment.seed,
            memory=experiment.memory,
        )
        self.meeting = Meeting(world)
        self.method = experiment.parallel.create(world, self.model, self.meeting)
        self.base_rate = experiment.optimizer.learning_rate * experiment.parallel.learning_rate_factor(
            world.size
        )
        self.history: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0
        self.epoch, self.batch = 0, 0
        self.sums = np.zeros(2 + len(experiment.metrics))
        self.seconds = {"data": 0.0, "compute": 0.0}
        self.warmup_seconds = warm_up(self.model, self.loader, world)
        self.started = time.perf_counter()

    # -- the run -------------------------------------------------------------------------------------------

    def run(self, resume: bool) -> RunRecord:
        self.begin(resume)
        experiment = self.experiment
        try:
            while self.epoch < experiment.epochs:
                self.train_epoch()
            self.end()
        except DhhpcError as error:
            with contextlib.suppress(DhhpcError):  # the first error is the one to tell
                self.record.event("failure", message=str(error))
                self.record.update(status="failed", finished=now())
            raise
        return self.record

    def begin(self, resume: bool) -> None:
        """Take up the run folder: a new one, or with `resume` an existing one at its newest checkpoint."""
        found, problem = self.world.broadcast_object(self.record.earlier(resume))
        if problem:
            raise DhhpcError(problem)
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "name": self.experiment.name,
            "status": "running",
            "started": now(),
            "finished": None,
            "resumed": 0,
        }
        if found:
            content |= self.take_up()
        content["experiment"] = self.experiment.model_dump(mode="json")
        content |= provenance(self.world, self.threads)
        content |= {
            "samples": {split: self.shards.count(split) for split in self.shards.splits},
            "parameters": self.model.parameter_count,
            "history": self.history,
        }
        self.record.update(**content)
        values = {
            "epoch": self.epoch,
            "batch": self.batch,
            "epochs": self.experiment.epochs,
            "ranks": self.world.size,
            "threads": self.threads,
        }
        self.record.event("resume" if found else "start", **values)
        self.listen(
            "start", values | {"batches": self.loader.batches_per_epoch, "folder": self.record.folder}
        )

    def take_up(self) -> dict[str, Any]:
        """Continue the run in the folder; returns what its record keeps."""
        kept, checkpoint = take_up(
            self.record,
            self.folder,
            self.experiment,
            self.model,
            self.method,
            self.world,
            self.batch_size * self.world.size,
            self.warn,
        )
        if checkpoint is not None:
            self.epoch, self.batch = checkpoint.epoch, checkpoint.batch
            self.history = checkpoint.history
            self.earlier_seconds = checkpoint.seconds
            if self.world.rank == 0 and checkpoint.sums:
                self.sums[:] = list(checkpoint.sums.values())
        return kept

    def train_epoch(self) -> None:
        """The rest of the current epoch, then validation and a checkpoint."""
        epoch, first = self.epoch, self.batch
        before = self.clock()
        messages, bytes_sent = self.world.messages, self.world.bytes_sent
        self.method.begin_epoch(epoch, self.history)
        epoch_started = time.perf_counter()
        with contextlib.closing(self.loader.epoch(epoch, first)) as batches:  # its threads end with it
            self.train_batches(batches)
        self.method.end_of_epoch(last=epoch + 1 == self.experiment.epochs)
        messages, bytes_sent = self.world.messages - messages, self.world.bytes_sent - bytes_sent
        totals = self.sums.copy()
        self.world.allreduce_sum(totals)
        mine = {name: value - before[name] for name, value in self.clock().items()}
        by_rank = self.world.allgather_object(mine)
        seconds = time.perf_counter() - epoch_started
        self.check_state()
        results = self.means(totals)
        samples = self.loader.count - first * self.batch_size * self.world.size
        record: dict[str, Any] = {
            "epoch": epoch,
            **results,
            "learning_rate": self.optimizer.learning_rate,
            "seconds": round(seconds, 4),
            "samples_per_second": round(samples / seconds, 3),
            "batches": self.loader.batches_per_epoch - first,
            "period": self.method.period,
            "averagings": self.method.averagings,
            "messages": messages,
            "bytes_sent": bytes_sent,
            "ranks": [{name: round(value, 4) for name, value in part.items()} for part in by_rank],
        }
        if self.shards.count("validation"):
            started = time.perf_counter()
            try:
                with self.method.agreed():
                    validation = evaluate(self.model, self.shards, "validation", self.world)
            except NotFiniteError as error:
                raise DhhpcError(with_mend(error.told(f"epoch {epoch + 1}, {error}"), self.folder)) from None
            record["validation"] = without_details(validation)
            record["validation_seconds"] = round(time.perf_counter() - started, 4)
        self.history.append(record)
        self.epoch, self.batch = epoch + 1, 0
        self.sums[:] = 0
        due = self.epoch % self.experiment.checkpoint.every_epochs == 0
        if due or self.epoch == self.experiment.epochs or self.meeting.stop_agreed:
            self.save_checkpoint()
        self.record.event("epoch", **record)
        self.record.update(history=self.history, kpis=self.kpis())
        self.listen("epoch", record | {"epochs": self.experiment.epochs})
        if self.meeting.stop_agreed and self.epoch < self.experiment.epochs:
            self.stop()

    def train_batches(self, batches: Iterator[Batch]) -> None:
        """The batches of the current epoch from `self.batch` on."""
        loader, model = self.loader, self.model
        averages_gradients = self.method.averages_gradients
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            fetched = time.perf_counter()
            sending = self.world.seconds
            self.seconds["data"] += fetched - started
            if batch is None:
                return
            samples = len(batch.indices)
            # A batch takes the value at its end, so a warm-up does not begin with 0.
            position = self.epoch + (self.batch + 1) / loader.batches_per_epoch
            factor = self.experiment.schedule.factor(position, self.experiment.epochs)
            self.optimizer.learning_rate = self.base_rate * factor
            loss, stepped = 0.0, False
            if samples:
                try:
                    arrays = [batch.images], [batch.targets], batch.first
                    if averages_gradients:
                        completed = self.method.while_computing(samples, batch.global_count)
                        results = model.compute_gradients(*arrays, completed)
                    else:
                        results = model.train_batch(*arrays)
                        stepped = True
                    loss = results["loss"]
                    self.sums += samples * np.array([1.0, *results.values()])
                except NotFiniteError as error:
                    # Told at the next meeting, before anything is averaged or kept.
                    told = in_batch(error, self.epoch, self.batch, batch, loader, self.world)
                    self.meeting.trouble = self.meeting.trouble or with_mend(told, self.folder)
                    loss = math.nan
            # What was sent meanwhile counts as communication.
            computed = time.perf_counter() - (self.world.seconds - sending)
            self.method.after_gradients(samples, batch.global_count)
            averaged = time.perf_counter()
            if averages_gradients:
                model.apply_gradients()
            elif not stepped:
                self.optimizer.step_count += 1  # as on the ranks that had samples
            self.seconds["compute"] += computed - fetched + time.perf_counter() - averaged
            self.meeting.batches += 1
            met = self.method.after_batch(samples, batch.global_count)
            self.batch += 1
            within = self.batch < loader.batches_per_epoch
            if within and not met and self.meeting.ask():
                self.meeting.meet()
                met = True
            self.listen(
                "batch",
                {"epoch": self.epoch, "batch": self.batch, "batches": loader.batches_per_epoch, "loss": loss},
            )
            if within and met and self.meeting.stop_agreed:
                self.save_checkpoint()
                self.stop()

    def end(self) -> None:
        """Write the trained model: the best checkpoint's or the last parameters, as .npz and ONNX."""
        if self.world.rank == 0:
            from dhhpc.eddl import export_onnx

            best = self.folder.best() if self.experiment.checkpoint.select == "best" else None
            chosen = self.epoch
            if best is not None:
                checkpoint = self.folder.load(best)
                self.model.load_state(checkpoint.state, str(best))
                chosen = checkpoint.epoch
            self.model.save(self.record.model)
            export_onnx(self.model, self.record.onnx)
            if self.history and "validation" in self.history[chosen - 1]:
                self.record.write_metrics("validation", self.history[chosen - 1]["validation"])
            self.record.update(status="finished", finished=now(), selected_epoch=chosen - 1, kpis=self.kpis())
        self.world.barrier()
        self.record.event("end", seconds=round(self.total_seconds(), 3))
        self.listen("end", {"seconds": self.total_seconds(), "folder": self.record.folder})

    # -- parts ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        values = {"epoch": self.epoch, "batch": self.batch}
        self.record.event("stop", **values)
        self.record.update(status="stopped", finished=now(), kpis=self.kpis())
        self.listen("stop", values)
        raise Stopped

    def save_checkpoint(self) -> None:
        """Rank 0 writes what all agree upon at the current position, each rank what is its own."""
        self.check_state()
        sums = self.sums.copy()
        self.world.allreduce_sum(sums)
        own = self.method.own_state()
        with self.method.agreed():
            state = self.model.state()
        state |= {f"averaging/{name}": array for name, array in self.method.remembered().items()}
        names = ["samples", "loss", *self.experiment.metrics]
        checkpoint = Checkpoint(
            epoch=self.epoch,
            batch=self.batch,
            ranks=self.world.size,
            global_batch=self.batch_size * self.world.size,
            state=state,
            history=self.history,
            sums=dict(zip(names, sums.tolist(), strict=True)) if self.batch else {},
            seconds=self.total_seconds(),
            score=self.score() if self.batch == 0 else None,
        )
        written = self.folder.save_own(checkpoint, self.world.rank, own) if own else None
        parts = self.world.gather_object(written)
        if self.world.rank == 0:
            checkpoint.parts = [part for part in parts or [] if part]
            path = self.folder.save(checkpoint)
            self.record.event("checkpoint", file=path.name, score=checkpoint.score)
            self.listen("checkpoint", {"path": path})

    def score(self) -> float | None:
        """The monitored metric of the last epoch, larger is better; None without a validation split."""
        validation = self.history[-1].get("validation")
        if validation is None:
            return None
        usual = "dice" if self.shards.task == "segmentation" else "accuracy"
        monitor = self.experiment.checkpoint.monitor or usual
        value = validation.get(monitor)
        if value is None:
            return None
        return -float(value) if monitor == "loss" else float(value)

    def clock(self) -> dict[str, float]:
        """Seconds of this rank so far."""
        wait = self.meeting.wait_seconds
        return self.seconds | {"communication": self.world.seconds - wait, "wait": wait}

    def means(self, totals: np.ndarray[Any, Any]) -> dict[str, float]:
        names = ["loss", *self.experiment.metrics]
        return {name: float(total / totals[0]) for name, total in zip(names, totals[1:], strict=True)}

    def check_state(self) -> None:
        """Stop where the state that all ranks hold is not finite, before a checkpoint is made of it."""
        error = not_finite_state(self.model, f"epoch {self.epoch + 1}: the network is no longer finite")
        if error is not None:
            self.meeting.trouble = with_mend(error, self.folder)
            self.meeting.meet()

    def warn(self, message: str) -> None:
        self.record.event("warning", message=message)
        self.listen("warning", {"message": message})

    def total_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def kpis(self) -> dict[str, Any]:
        """totm: seconds of the training procedure so far (DeepHealth D1.1), without the compilation of
        kernels, which warmup_seconds tells; throughput; messages and bytes sent by rank 0."""
        seconds = sum(record["seconds"] for record in self.history)
        samples = sum(record["seconds"] * record["samples_per_second"] for record in self.history)
        return {
            "totm": round(self.total_seconds(), 4),
            "warmup_seconds": round(self.warmup_seconds, 4),
            "samples_per_second": round(samples / seconds, 3) if seconds else None,
            "messages": self.world.messages - self.sent_before[0],
            "bytes_sent": self.world.bytes_sent - self.sent_before[1],
        }
