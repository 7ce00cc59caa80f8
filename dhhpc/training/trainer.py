"""Training: every rank back-propagates its part of each batch, and the ranks learn together."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.data.loader import Batch
from dhhpc.eddl import NotFiniteElsewhereError, NotFiniteError
from dhhpc.eddl.finiteness import not_finite_state
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder, score_of
from dhhpc.training.checkpoint_writer import CheckpointWriter
from dhhpc.training.divergence import in_batch, with_mend
from dhhpc.training.evaluation import evaluate
from dhhpc.training.experiment import Experiment
from dhhpc.training.meeting import AgreedError, Meeting
from dhhpc.training.metrics import without_details
from dhhpc.training.network import CreateNetwork, create_network, use_threads, write_network
from dhhpc.training.preparation import check, training_loader, warm_up
from dhhpc.training.resumption import checkpoint_state, take_up
from dhhpc.training.run_record import SCHEMA_VERSION, RunRecord, kpis, now, provenance
from dhhpc.training.splitting import Pace, calibrate, measured_weights
from dhhpc.training.staging import Staging
from dhhpc.training.stopping import Stopped
from dhhpc.training.timing import Timing, since

Listener = Callable[[str, dict[str, Any]], None]

# Seconds that a rank may take over one kernel, where kernels may have to be compiled.
COMPILING = 1800.0


def ignore(event: str, values: dict[str, Any]) -> None:
    """A listener that does nothing."""


def something(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A batch, or one sample of zeros in place of an empty one."""
    return array if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)


class Trainer:
    """One run on this rank."""

    def __init__(
        self,
        experiment: Experiment,
        world: World,
        create: CreateNetwork,
        listen: Listener = ignore,
        staging: Staging | None = None,
    ) -> None:
        self.experiment, self.world, self.listen, self.staging = experiment, world, listen, staging
        # Before this run compiles and warms up: the load of others.
        self.load = os.getloadavg()
        self.record = RunRecord(experiment.folder, writes=world.rank == 0)
        self.folder = CheckpointFolder(
            self.record.checkpoints, experiment.checkpoint.keep, world.progress.goes_on
        )
        self.shards = check(experiment, world.size, create, staging)
        self.threads = use_threads(world, experiment.threads)
        self.batch_size = experiment.rank_batch_size(world.size)
        self.loader = training_loader(experiment, self.shards, world)
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
        shard = max(1, round(experiment.checkpoint.shard_megabytes * 2**20))
        self.writer = CheckpointWriter(self.folder, world, shard, self.meeting.hear, self.tell_checkpoint)
        batches = experiment.epochs * self.loader.batches()
        self.method = experiment.parallel.create(world, self.model, self.meeting, batches)
        self.base_rate = experiment.optimizer.learning_rate * experiment.parallel.learning_rate_factor(
            world.size
        )
        self.history: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0
        self.epoch, self.taken = 0, 0
        self.pace = Pace()
        self.sums = np.zeros(2 + len(experiment.metrics))
        self.timing = Timing(world, self.meeting, experiment.trace)
        self.warmup_seconds = warm_up(self.method, self.loader, world)
        split = experiment.parallel.split
        if isinstance(split, list):
            self.loader.weights = split
        measured = split == "measured" and world.size > 1
        self.calibrated = calibrate(self.model, self.loader, world) if measured else None
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
            if isinstance(error, AgreedError):
                with contextlib.suppress(DhhpcError):
                    self.writer.finish()
            with contextlib.suppress(DhhpcError):  # the first error is the one to tell
                self.record.event("failure", message=str(error))
                self.record.update(status="failed", finished=now())
            raise
        finally:
            self.writer.abandon()
            self.timing.end()
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
        content |= provenance(self.world, self.threads, self.load)
        content |= {
            "staging": self.staging.document() if self.staging else None,
            "samples": {split: self.shards.count(split) for split in self.shards.splits},
            "parameters": self.model.parameter_count,
            "history": self.history,
        }
        self.record.update(**content)
        self.timing.trace_into(self.record.trace(content["resumed"]))
        values = {
            "epoch": self.epoch,
            "batch": self.batch,
            "epochs": self.experiment.epochs,
            "ranks": self.world.size,
            "threads": self.threads,
        }
        self.record.event("resume" if found else "start", **values)
        self.listen("start", values | {"batches": self.loader.batches(), "folder": self.record.folder})

    def take_up(self) -> dict[str, Any]:
        """Continue the run in the folder; returns what its record keeps."""
        kept, checkpoint = take_up(
            self.record,
            self.folder,
            self.experiment,
            self.model,
            self.method,
            self.world,
            self.warn,
        )
        if checkpoint is not None:
            self.epoch, self.taken = checkpoint.epoch, checkpoint.samples
            self.history = checkpoint.history
            self.earlier_seconds = checkpoint.seconds
            if self.world.rank == 0 and checkpoint.sums:
                self.sums[:] = list(checkpoint.sums.values())
        return kept

    def train_epoch(self) -> None:
        """The rest of the current epoch, then validation and a checkpoint."""
        epoch, first = self.epoch, self.taken
        before, sent_before = self.timing.clock(), self.timing.sent()
        if self.calibrated:
            self.loader.weights = measured_weights(self.history, self.calibrated)
        with self.world.timeline.section(f"epoch {epoch + 1}", "communication"):
            self.method.begin_epoch(epoch, self.history)
            epoch_started = time.perf_counter()
            with contextlib.closing(self.loader.epoch(epoch, first)) as batches:  # its threads end with it
                self.train_batches(batches)
            self.method.end_of_epoch(last=epoch + 1 == self.experiment.epochs)
            sent = since(sent_before, self.timing.sent())
            totals = self.sums.copy()
            self.world.allreduce_sum(totals)
        seconds = time.perf_counter() - epoch_started
        spent = since(before, self.timing.clock())
        self.check_state()
        results = self.means(totals)
        samples = self.loader.count - first
        record: dict[str, Any] = {
            "epoch": epoch,
            **results,
            "learning_rate": self.optimizer.learning_rate,
            "seconds": round(seconds, 4),
            "samples_per_second": round(samples / seconds, 3),
            "batches": self.loader.batches(first),
            "period": self.method.period,
            "averagings": self.method.averagings,
            **sent,
            "weights": self.loader.weights,
        }
        with self.world.timeline.section("validation", "validation"):
            if self.shards.count("validation"):
                record |= self.validate()
            spent["validation"] = since(before, self.timing.clock())["validation"]
            told = self.world.allgather_object((spent | sent, self.pace.finish()))
            record["ranks"], record["paces"] = map(list, zip(*told, strict=True))
        self.world.progress.patience = 0.0  # every kernel has run once
        self.history.append(record)
        self.epoch, self.taken = epoch + 1, 0
        self.sums[:] = 0
        due = self.epoch % self.experiment.checkpoint.every_epochs == 0
        if due or self.epoch == self.experiment.epochs or self.meeting.stop_agreed:
            started = time.perf_counter()
            self.save_checkpoint()
            record["checkpoint_seconds"] = round(time.perf_counter() - started, 4)
        self.world.timeline.flush()
        self.record.event("epoch", **record)
        self.record.update(history=self.history, kpis=self.kpis())
        self.listen("epoch", record | {"epochs": self.experiment.epochs})
        if self.meeting.stop_agreed and self.epoch < self.experiment.epochs:
            self.stop()

    def validate(self) -> dict[str, Any]:
        """What the record of an epoch holds of validation."""
        started = time.perf_counter()
        try:
            with self.timing.of("validation", "evaluate"), self.method.agreed():
                cuts_images = self.method.cuts_images
                validation = evaluate(self.model, self.shards, "validation", self.world, cuts_images)
        except NotFiniteError as error:
            told = error.told(f"epoch {self.epoch + 1}, {error}")
            raise AgreedError(with_mend(told, self.writer.newest())) from None
        seconds = round(time.perf_counter() - started, 4)
        return {"validation": without_details(validation), "validation_seconds": seconds}

    def train_batches(self, batches: Iterator[Batch]) -> None:
        """The rest of the current epoch."""
        loader, method = self.loader, self.method
        first_epoch = self.world.progress.patience > 0
        while True:
            where = f"epoch {self.epoch + 1}, batch {self.batch + 1}"
            self.world.progress.at(f"the loading of {where}")
            started = self.timing.begin_batch(self.batch)
            with self.timing.of("data", "load"):
                batch = next(batches, None)
            if batch is None:
                self.timing.end_batches()
                return
            self.world.progress.at(where)
            samples, global_samples = len(batch.indices), batch.global_count
            self.taken += global_samples
            within = self.taken < loader.count
            if first_epoch:
                # The last batch is smaller: kernels may have to be compiled for it, as for validation.
                self.world.progress.patience = 0.0 if within else COMPILING
            # A batch takes the value at its end, so a warm-up does not begin with 0.
            position = self.epoch + self.taken / loader.count
            factor = self.experiment.schedule.factor(position, self.experiment.epochs)
            self.optimizer.learning_rate = self.base_rate * factor
            stepped, loss = False, 0.0
            if samples or method.computes_together:
                with self.timing.of("compute", "forward and backward"):
                    stepped, loss = self.compute(batch)
            method.after_gradients(samples, global_samples)
            with self.timing.of("compute", "update"):
                if method.averages_gradients:
                    method.network.apply_gradients()
                elif not stepped:
                    self.optimizer.step_count += 1  # as on the ranks that had samples
            self.meeting.batches += 1
            met = method.after_batch(samples, global_samples)
            if within and not met and self.meeting.ask():
                self.meeting.meet()
                met = True
            self.writer.look()
            self.pace.add(samples, self.timing.seconds["data"] + self.timing.seconds["compute"])
            values = {"epoch": self.epoch, "batch": self.batch, "batches": loader.batches()}
            self.listen("batch", values | {"loss": loss})
            self.world.timeline.span(where, "section", started, time.perf_counter())
            if within and met and self.meeting.stop_agreed:
                self.timing.end_batches()
                self.save_checkpoint()
                self.stop()

    def compute(self, batch: Batch) -> tuple[bool, float]:
        """Compute gradients, or make a step where ranks do so alone: whether there was one, and the loss."""
        method, samples = self.method, len(batch.indices)
        images, targets = (method.share_of(something(each)) for each in (batch.images, batch.targets))
        arrays = [images], [targets], batch.first
        try:
            if method.averages_gradients:
                completed = method.while_computing(samples, batch.global_count)
                results = method.network.compute_gradients(*arrays, completed)
            else:
                results = method.network.train_batch(*arrays)
        except NotFiniteElsewhereError:
            return False, math.nan
        except NotFiniteError as error:
            # Told at the next meeting, before anything is averaged or kept.
            number = self.loader.batches() - self.loader.batches(self.taken - batch.global_count)
            told = in_batch(error, self.epoch, number, batch, self.loader, self.world)
            self.meeting.hear(with_mend(told, self.writer.newest()))
            return False, math.nan
        if samples and not (method.cuts_images and self.world.rank):
            self.sums += samples * np.array([1.0, *results.values()])
        return not method.averages_gradients, results["loss"] if samples else 0.0

    def end(self) -> None:
        """Write the trained model: the best checkpoint's or the last parameters, as .npz and ONNX."""
        self.writer.close()
        self.world.progress.at("the writing of the model")
        if self.world.rank == 0:
            best = self.folder.best() if self.experiment.checkpoint.select == "best" else None
            chosen = write_network(self.record, self.model, self.folder, best) or self.epoch
            if self.history and "validation" in self.history[chosen - 1]:
                self.record.write_metrics("validation", self.history[chosen - 1]["validation"])
            self.record.update(status="finished", finished=now(), selected_epoch=chosen - 1, kpis=self.kpis())
        with self.world.timeline.section("end", "end"):
            self.world.barrier()
        self.record.event("end", seconds=round(self.total_seconds(), 3))
        self.listen("end", {"seconds": self.total_seconds(), "folder": self.record.folder})

    @property
    def batch(self) -> int:
        """Number of the next batch of this epoch, from 0."""
        return self.loader.batches() - self.loader.batches(self.taken)

    # -- parts ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        values = {"epoch": self.epoch, "batch": self.batch}
        self.record.event("stop", **values)
        self.record.update(status="stopped", finished=now(), kpis=self.kpis())
        self.listen("stop", values)
        with self.world.timeline.section("end", "end"):
            self.world.barrier()  # ranks watch over each other until all of this is written
        raise Stopped

    def save_checkpoint(self) -> None:
        """Begin to write the current position; to the end where nothing comes after it."""
        self.world.progress.at("the writing of a checkpoint")
        self.check_state()
        ends = self.epoch == self.experiment.epochs or self.meeting.stop_agreed
        with self.world.timeline.section("checkpoint", "checkpoint"):
            self.writer.begin(self.checkpoint(), *checkpoint_state(self.model, self.method))
            if ends or not self.experiment.checkpoint.asynchronous:
                self.writer.finish()

    def checkpoint(self) -> Checkpoint:
        """The current position, without its arrays. All ranks call this."""
        sums = self.sums.copy()
        self.world.allreduce_sum(sums)
        names = ["samples", "loss", *self.experiment.metrics]
        validation = self.history[-1].get("validation") if self.taken == 0 else None
        return Checkpoint(
            epoch=self.epoch,
            samples=self.taken,
            ranks=self.world.size,
            history=[dict(record) for record in self.history],  # written while more is added
            sums=dict(zip(names, sums.tolist(), strict=True)) if self.taken else {},
            seconds=self.total_seconds(),
            score=score_of(validation, self.experiment.checkpoint.monitor, self.shards.task),
        )

    def tell_checkpoint(self, path: Path, checkpoint: Checkpoint, seconds: float, snapshot: int) -> None:
        values = {"score": checkpoint.score, "seconds": round(seconds, 4), "snapshot_bytes": snapshot}
        self.record.event("checkpoint", file=path.name, **values)
        self.listen("checkpoint", {"path": path})

    def means(self, totals: np.ndarray[Any, Any]) -> dict[str, float]:
        names = ["loss", *self.experiment.metrics]
        return {name: float(total / totals[0]) for name, total in zip(names, totals[1:], strict=True)}

    def check_state(self) -> None:
        """Stop where the state of a rank is not finite, before a checkpoint is made of it."""
        error = not_finite_state(self.model, f"epoch {self.epoch + 1}: the network is no longer finite")
        if error is not None:
            self.meeting.hear(with_mend(error, self.writer.newest()))
        self.meeting.meet()

    def warn(self, message: str) -> None:
        self.record.event("warning", message=message)
        self.listen("warning", {"message": message})

    def total_seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def kpis(self) -> dict[str, Any]:
        return kpis(self.history, self.total_seconds(), self.warmup_seconds) | self.timing.sent()
