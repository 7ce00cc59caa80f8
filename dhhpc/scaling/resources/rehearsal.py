"""A rehearsal: an experiment is trained for some seconds on one rank, to learn its pace and its memory.

It is training as such, with everything that belongs to it, on the first samples of the splits, for a few
epochs; its run folder goes when it ends. What such a run measures is read from its record as from any other
(`dhhpc.scaling.resources.calibration`).
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic

from dhhpc.data.excerpt import Excerpt
from dhhpc.data.shards import ShardSet
from dhhpc.data.staged_copy import Staged
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_error
from dhhpc.mpi import World
from dhhpc.scaling.resources.calibration import FREE_KEYS, MeasuredRun, read_measured
from dhhpc.scaling.resources.mpi_memory import measured_mpi_bytes
from dhhpc.training.evaluation import batch_of
from dhhpc.training.experiment import Data, Experiment, differences
from dhhpc.training.footprint import Counting
from dhhpc.training.network import CreateNetwork
from dhhpc.training.running import train

SECONDS = 20.0
# The first epoch is not like others, of which a median wants two; more, up to a number, where there are few
# samples.
FEWEST_EPOCHS, MOST_EPOCHS = 3, 12
# What a rehearsal chooses by itself.
OWN_KEYS = (*FREE_KEYS, "batch_size", "parallel")


class Rehearsal(Document):
    """What a rehearsal measured, on one rank of `threads` threads.

    Attributes:
        experiment: what was trained, with the batch size, samples and epochs of the rehearsal.
        host, processor: where.
        cores: that the process could run on.
        samples, images: of the training and the validation split that were used.
        batches: of training whose pace counts.
        pace: seconds for a training sample.
        validation_pace: seconds for a validation image; None without any.
        epoch_seconds: of an epoch beside batches and validation; the checkpoint is in it.
        once_seconds: of the run beside its epochs: its folder, and the trained model's files.
        startup_seconds: from the start of the process until it trains, with the compilation of kernels if
            they were not there.
        peak_bytes: the most that was resident (VmHWM).
        counted_bytes: what `dhhpc.training.footprint` counts for this rank, beside the process.
        predicted_bytes: what a training with one sample a batch, before in the same process, had one expect
            in place of `peak_bytes`.
        process_bytes: the rest: interpreter, libraries, compiled kernels, and what counting misses; of the
            larger difference that two trainings, with one sample a batch and with `batch_size`, left.
        mpi_bytes: that MPI adds to a rank of two; None where that could not be measured.
    """

    experiment: dict[str, Any]
    host: str
    processor: str
    cores: pydantic.PositiveInt
    threads: pydantic.PositiveInt
    batch_size: pydantic.PositiveInt
    samples: pydantic.PositiveInt
    images: pydantic.NonNegativeInt
    batches: pydantic.PositiveInt
    pace: pydantic.PositiveFloat
    validation_pace: pydantic.PositiveFloat | None
    epoch_seconds: pydantic.NonNegativeFloat
    once_seconds: pydantic.NonNegativeFloat
    startup_seconds: pydantic.NonNegativeFloat
    peak_bytes: pydantic.PositiveInt
    counted_bytes: pydantic.PositiveInt
    predicted_bytes: pydantic.PositiveInt
    process_bytes: pydantic.PositiveInt
    mpi_bytes: pydantic.NonNegativeInt | None = None


class Beginning(Data):
    """The first samples of each split alone.

    Attributes:
        counts: of each split.
    """

    counts: dict[str, int]

    def open(self, staged: Staged | None = None) -> ShardSet:
        return Excerpt(super().open(staged), self.counts)


def read_rehearsal(path: Path, experiment: Experiment) -> Rehearsal:
    """What `dhhpc scale rehearse --output` wrote, of this experiment.

    Raises:
        DhhpcError: it is none, or of another experiment.
    """
    if not path.is_file():
        raise DhhpcError(f"{path}: no such file; `dhhpc scale rehearse EXPERIMENT --output {path}` writes it")
    try:
        found = Rehearsal.model_validate(read_json(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise DhhpcError(f"{path}: no rehearsal ({key}: {first['msg']}); rehearse again") from None
    changed = [
        key
        for key in differences(found.experiment, experiment.model_dump(mode="json"))
        if not any(key == free or key.startswith(f"{free}.") for free in OWN_KEYS)
    ]
    if changed:
        raise DhhpcError(f"{path}: is of an experiment with another {changed[0]}; rehearse this one")
    return found


def rehearse(
    experiment: Experiment,
    create: CreateNetwork,
    batch_size: int | None = None,
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda line: None,
) -> Rehearsal:
    """Train for about so many seconds beside the start, in this process, whose memory is measured, so that it
    should have done nothing before.

    Args:
        experiment: with the threads of a rank.
        create: makes networks, `dhhpc.zoo.create`.
        batch_size: of the rank; the experiment's unless given, or all samples if there are no more.
        say: hears a line on every training.

    Raises:
        DhhpcError: as `train`; the method is `spatial`; no run folder can be made.
    """
    refuse_spatial(experiment)
    shards = experiment.data.open()
    images, count = shards.count("validation"), shards.count("training")
    per_image = experiment.data.patch.per_image if experiment.data.patch else 1
    batch = min(batch_size or experiment.batch_size, count * per_image)
    together = min(batch_of(shards), images)
    disk = disk_of(experiment.folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".dhhpc-rehearsal-", dir=disk) as folder:
            stage = Stage(experiment, create, Path(folder), say)
            stage.train(1, 2, min(1, images), 1)
            smallest = stage.beyond()
            run = stage.train(batch, batch, together, 2)
            # The first pace is that of a single batch; where it was far too slow there is time for another.
            for least in (0.0, seconds / 2):
                left = seconds - (time.perf_counter() - stage.started)
                batches = int(left / FEWEST_EPOCHS / (batch * run.ranks[0].pace))
                if left < least or batches < 2:
                    break
                samples = min(batch * batches, count * per_image)
                epochs = int(left / (samples * run.ranks[0].pace))
                some = min(images, max(together, samples // 2))
                run = stage.train(batch, samples, some, max(FEWEST_EPOCHS, min(epochs, MOST_EPOCHS)))
            return stage.measured(run, smallest)
    except OSError as error:
        raise write_error(disk, error) from error


def refuse_spatial(experiment: Experiment) -> None:
    """
    Raises:
        DhhpcError: the method is `spatial`.
    """
    if experiment.parallel.method == "spatial":
        raise DhhpcError(
            f"{experiment.name}: with parallel.method `spatial` all ranks share each image, which one rank "
            f"cannot rehearse; measure with `dhhpc scale run`"
        )


class Stage:
    """Where an experiment is rehearsed: trained several times, on more and more samples."""

    def __init__(
        self, experiment: Experiment, create: CreateNetwork, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.experiment, self.create, self.folder, self.say = experiment, create, folder, say
        self.startup = self.started = 0.0
        self.trained = experiment
        self.trainings = 0
        self.counted = 0

    def train(self, batch: int, samples: int, images: int, epochs: int) -> MeasuredRun:
        """Train once; `samples` are those of an epoch, rounded up to whole images where patches are drawn."""
        patch = self.experiment.data.patch
        counts = {"training": -(-samples // (patch.per_image if patch else 1)), "validation": images}
        self.trainings += 1
        output = self.folder / f"training-{self.trainings}"
        self.trained = self.experiment.model_copy(
            update={
                "data": Beginning(**self.experiment.data.model_dump(), counts=counts),
                "batch_size": batch,
                "epochs": epochs,
                "parallel": self.experiment.parallel.model_copy(update={"split": "equal"}),
                "trace": 0,
                "output": output,
            }
        )
        self.say(f"{epochs} epochs of {samples} samples, batches of {batch}")
        train(self.trained, World(), self.create, listen=self.hear)
        gc.collect()  # what holds itself must not add to the next training
        shards = self.trained.data.open()
        self.counted = Counting(self.trained, shards, self.create).of(1).first
        return read_measured(output, "rehearsal")

    def hear(self, event: str, values: dict[str, Any]) -> None:
        if event == "start" and not self.started:
            self.startup, self.started = age_of_process(), time.perf_counter()

    def beyond(self) -> int:
        """Bytes at the peak so far beyond what is counted for the last training."""
        return peak_bytes() - self.counted

    def measured(self, run: MeasuredRun, smallest: int) -> Rehearsal:
        """What the last training tells, after one with one sample a batch that left `smallest` beyond what is
        counted."""
        rank, content = run.ranks[0], run.content
        return Rehearsal(
            experiment=self.trained.model_dump(mode="json"),
            host=rank.host,
            processor=content["processor"],
            cores=len(os.sched_getaffinity(0)),
            threads=rank.cores,
            batch_size=self.trained.batch_size,
            samples=content["samples"]["training"],
            images=content["samples"].get("validation", 0),
            batches=sum(epoch["batches"] for epoch in content["history"][1:]),
            pace=rank.pace,
            validation_pace=rank.validation_pace,
            epoch_seconds=run.epoch_seconds,
            once_seconds=run.once_seconds,
            startup_seconds=self.startup,
            peak_bytes=peak_bytes(),
            counted_bytes=self.counted,
            predicted_bytes=self.counted + smallest,
            process_bytes=max(1, smallest, self.beyond()),
            mpi_bytes=measured_mpi_bytes(),
        )


def disk_of(folder: Path) -> Path:
    """The nearest folder above `folder` that exists: on the disk where checkpoints will be written."""
    return next(parent for parent in folder.absolute().parents if parent.is_dir())


def peak_bytes() -> int:
    """The most memory of this process that was resident so far: VmHWM of proc(5)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def age_of_process() -> float:
    """Seconds since this process was started: starttime of proc(5), field 22, which counts from the boot."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
