"""Preprocessing: every image of a dataset through a pipeline into shards, on any number of ranks.

The unit of work is a shard: a run of consecutive images of one split. What goes into it does not depend on
the ranks, and a finished one is whole (written under a temporary name and renamed). So a run that was killed
or met a full disk goes on where it stopped when it is started again.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from dhhpc import ecvl
from dhhpc.data.dataset import Dataset, read_dataset
from dhhpc.data.secret import SECRET_NAME, dataset_secret
from dhhpc.data.shard_index import INDEX_NAME, ShardIndex, SkippedImage, read_index, write_index
from dhhpc.data.shard_work import Outcome, Recipe, Shard, ShardWork, different_shapes
from dhhpc.documents import Document, read_document
from dhhpc.errors import DhhpcError
from dhhpc.files import write_error
from dhhpc.mpi import World, alone_in

Progress = Callable[[int, int, str], None]
"""Called with (shards done by all ranks, shards in all, line): on rank 0 after each of its shards, on every
rank for an image that is skipped."""

STOP_NAME = ".stopping"


class Classify(Document):
    """Samples of one class each, told from their masks.

    Attributes:
        least_pixels: a sample is of the foreground class with the most pixels in its mask after the pipeline
            if they are at least so many, else `background`.
    """

    least_pixels: pydantic.PositiveInt = 1


class Preprocess(Document):
    """What `preprocess.yml` holds; paths are relative to its folder.

    Attributes:
        dataset: the dataset file; it must have a split.
        output: the folder of shards to write.
        pipeline: steps of `dhhpc.ecvl.Pipeline`, applied to image, mask and region.
        images_per_shard: images (volumes count as one) in a shard.
        on_error: `stop` at the first damaged image, or `skip` such images and count them.
        seed: of the choice among empty slices.
        slices: make 2D samples of volumes, slice by slice.
        deidentify: name samples by pseudonyms, and refuse images with burned-in text.
        secret: the file with the key of the pseudonyms, made if missing; by default beside the dataset.
            Whoever has it can link samples to images: never hand it out with the shards.
        tiles: (height, width): cut images, or slices, into tiles, which become the samples.
        classify: give samples a class, told from their masks, in place of the masks.
        keep_empty: the part of the slices or tiles without foreground (with `classify`, of the background)
            that training keeps.
        dtype: how images are stored; float16 halves them and keeps three digits.
    """

    dataset: str
    output: str
    pipeline: list[ecvl.Step] = pydantic.Field(default_factory=list)
    images_per_shard: pydantic.PositiveInt = 8
    on_error: Literal["stop", "skip"] = "stop"
    seed: int = pydantic.Field(0, ge=0)
    slices: bool = False
    tiles: tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None = None
    classify: Classify | None = None
    deidentify: bool = True
    secret: str | None = None
    keep_empty: float = pydantic.Field(1.0, ge=0, le=1)
    dtype: Literal["float32", "float16"] = "float32"
    _folder: Path = pydantic.PrivateAttr(default_factory=Path)

    @property
    def folder(self) -> Path:
        """What relative paths are relative to."""
        return self._folder


@dataclass(frozen=True)
class PreprocessSummary:
    """What a run of `preprocess` did.

    Attributes:
        output: the folder of shards.
        samples: their number, by split.
        written, reused: shards made by this run, and found finished from an earlier one.
        skipped: images left out (on_error: skip).
        bytes: size of all shards.
        seconds: wall time of the run that made the shards, or the last of them.
    """

    output: Path
    samples: dict[str, int]
    written: int
    reused: int
    skipped: list[SkippedImage]
    bytes: int
    seconds: float


def read_preprocess(path: Path | str) -> Preprocess:
    """Read `preprocess.yml`.

    Raises:
        DhhpcError: it is missing or wrong; names the line and the nearest right key.
    """
    document = read_document(path, Preprocess)
    document._folder = Path(path).parent
    return document


def preprocess(
    document: Preprocess,
    world: World,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PreprocessSummary:
    """Write all shards and `index.json`; called by all ranks, returns the same on each.

    A failure on one rank stops the others after the shard they are at, and all raise the same error.

    Args:
        say: hears, on rank 0, a line when another process must be waited for.

    Raises:
        DhhpcError: the dataset is wrong or has no split; an image is damaged (on_error: stop) or all are;
            images give samples of different shapes; a shard cannot be written; the output holds the shards of
            another dataset, or another process preprocesses into it.
    """
    started = time.monotonic()
    dataset = read_dataset(document.folder / document.dataset)
    shards = plan(dataset, document.images_per_shard)
    output = document.folder / document.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(output, error) from None
    with alone_in(output, world, say):
        refuse_other_dataset(output, dataset)
        work = ShardWork(dataset, recipe_of(document, dataset, world), output)
        index, reused = made(work, shards, world, progress, started)
    samples = {name: 0 for name, indices in dataset.splits.items() if indices}
    for record in index.shards:
        samples[record.split] += record.samples
    size = sum(record.bytes for record in index.shards)
    return PreprocessSummary(
        output, samples, len(shards) - reused, reused, index.skipped, size, round(index.seconds, 3)
    )


def made(
    work: ShardWork, shards: list[Shard], world: World, progress: Progress | None, started: float
) -> tuple[ShardIndex, int]:
    """Make the shards that are not finished, and their index; returns it, and how many were finished."""
    output = work.output
    if world.rank == 0:
        sweep(output, shards)
    world.barrier()
    mine = dealt(shards, world.size)[world.rank]
    outcomes = {shard.file: outcome for shard in mine if (outcome := work.finished(shard)) is not None}
    reused = sum(world.allgather_object(len(outcomes)))
    earlier = earlier_index(output, work, shards) if reused == len(shards) else None
    if earlier is not None:
        return earlier, reused
    if world.rank == 0:  # from here to its end the run's folder is not a whole set
        (output / INDEX_NAME).unlink(missing_ok=True)
    world.barrier()
    every = run(work, mine, outcomes, shards, world, progress)
    index = index_of(work, shards, every, world.size, time.monotonic() - started)
    problem = None
    if world.rank == 0:
        try:
            write_index(output, index)
        except DhhpcError as error:
            problem = str(error)
    index, problem = world.broadcast_object((index, problem))
    if problem:
        raise DhhpcError(problem)
    return index, reused


def refuse_other_dataset(output: Path, dataset: Dataset) -> None:
    """Keep the finished shards of another dataset from being replaced by a wrong `output`."""
    try:
        found = read_index(output).dataset
    except DhhpcError:
        return
    if found != dataset.name:
        raise DhhpcError(
            f"{output}: holds the shards of dataset `{found}`, not of `{dataset.name}`; "
            f"choose another output or delete that folder"
        )


def plan(dataset: Dataset, images_per_shard: int) -> list[Shard]:
    """The shards of a dataset, in the order of their splits.

    Raises:
        DhhpcError: it has no split, or an image in a split has no label.
    """
    shards = []
    for split, indices in dataset.splits.items():
        for index in indices:
            if dataset.images[index].label is None:
                raise DhhpcError(
                    f"{dataset.path}: images.{index} has no label; label it or take it out of {split}"
                )
        for number, start in enumerate(range(0, len(indices), images_per_shard)):
            part = indices[start : start + images_per_shard]
            shards.append(Shard(f"{split}-{number:05d}.h5", split, part))
    if not shards:
        raise DhhpcError(f"{dataset.path}: no image is in a split; run `dhhpc dataset partition` on it first")
    return shards


def dealt(shards: list[Shard], ranks: int) -> list[list[Shard]]:
    """The shards that each rank makes.

    Dealt in turn rather than in runs: splits differ in cost, as empty slices are dropped in training only.
    """
    return [shards[rank::ranks] for rank in range(ranks)]


def recipe_of(document: Preprocess, dataset: Dataset, world: World) -> Recipe:
    """What all shards have in common; rank 0 makes the key of the pseudonyms if there is none yet."""
    secret, problem = None, None
    if document.deidentify:
        path = document.folder / document.secret if document.secret else dataset.folder / SECRET_NAME
        if world.rank == 0:
            try:
                secret = dataset_secret(path)
            except DhhpcError as error:
                problem = str(error)
        secret, problem = world.broadcast_object((secret, problem))
        if problem:
            raise DhhpcError(problem)
    if dataset.task != "segmentation":
        for key in ("tiles", "classify"):
            if getattr(document, key) is not None:
                raise DhhpcError(
                    f"{dataset.path}: labels whole images, and `{key}` of the preprocessing needs masks; "
                    f"leave `{key}` out"
                )
    return Recipe(
        pipeline=ecvl.Pipeline(document.pipeline),
        slices=document.slices,
        keep_empty=document.keep_empty,
        seed=document.seed,
        dtype=document.dtype,
        skip_damaged=document.on_error == "skip",
        with_region=any(image.values.get("region") is not None for image in dataset.images),
        secret=secret,
        tiles=document.tiles,
        least_pixels=document.classify.least_pixels if document.classify else None,
    )


def sweep(output: Path, shards: list[Shard]) -> None:
    """Remove what killed runs and earlier datasets left: temporary files, and shards that no longer exist."""
    planned = {shard.file for shard in shards}
    for path in output.iterdir():
        stale = re.fullmatch(r"(training|validation|test)-\d{5,}\.h5", path.name) and path.name not in planned
        if stale or re.fullmatch(r"\..+\.(h5|json)\.\d+\.tmp", path.name) or path.name == STOP_NAME:
            path.unlink(missing_ok=True)


def run(
    work: ShardWork,
    mine: list[Shard],
    outcomes: dict[str, Outcome],
    shards: list[Shard],
    world: World,
    progress: Progress | None,
) -> dict[str, Outcome]:
    """Make this rank's missing shards; the outcomes of all ranks, by file name.

    Ranks meet only at the end. A failing one leaves a file that the others look for between two shards.
    """
    stop = work.output / STOP_NAME
    planned = {shard.file for shard in shards}
    failure = None

    def report(line: str) -> None:
        if progress:
            progress(len(planned.intersection(os.listdir(work.output))), len(shards), line)

    try:
        for shard in mine:
            if shard.file in outcomes:
                continue
            if stop.exists():
                break
            outcomes[shard.file] = work.make(shard, lambda line: report(f"skipped {line}"))
            if world.rank == 0:
                report(shard.file)
    except DhhpcError as error:
        failure = str(error)
        with contextlib.suppress(OSError):  # then the others only stop later
            stop.touch()
    gathered: list[tuple[dict[str, Outcome], str | None]] = world.allgather_object((outcomes, failure))
    if world.rank == 0:
        stop.unlink(missing_ok=True)
    failures = [problem for _, problem in gathered if problem]
    if failures:
        raise DhhpcError(failures[0])
    return {file: outcome for part, _ in gathered for file, outcome in part.items()}


def index_of(
    work: ShardWork, shards: list[Shard], outcomes: dict[str, Outcome], ranks: int, seconds: float
) -> ShardIndex:
    """The index of a finished run.

    Raises:
        DhhpcError: shards differ in the shape of their samples, or there is no sample at all.
    """
    shape: Any = None
    for shard in shards:
        other = outcomes[shard.file].shape
        shape = shape or other
        if other is not None and other != shape:
            first = work.dataset.images[shard.images[0]]
            raise different_shapes(str(work.dataset.file(first.location)), other, shape)
    skipped = [image for shard in shards for image in outcomes[shard.file].skipped]
    if shape is None:
        reason = f"all {len(skipped)} images were skipped" if skipped else "no slice was kept"
        raise DhhpcError(
            f"{work.dataset.path}: {reason}; run with `on_error: stop` to see the first, "
            f"or raise `keep_empty`"
        )
    recipe = work.recipe
    return ShardIndex(
        dataset=work.dataset.name,
        task=work.task,
        classes=work.classes,
        sample_shape=shape,
        dtype=recipe.dtype,
        tiles=recipe.tiles,
        regions=recipe.with_region,
        shards=[outcomes[shard.file].record for shard in shards],
        pipeline=recipe.pipeline.model_dump(mode="json"),
        pipeline_hash=recipe.digest(work.dataset.classes),
        skipped=skipped,
        ranks=ranks,
        seconds=seconds,
    )


def earlier_index(output: Path, work: ShardWork, shards: list[Shard]) -> ShardIndex | None:
    """The index of an earlier run, if it tells of exactly these shards."""
    try:
        index = read_index(output)
    except DhhpcError:
        return None
    same = [record.file for record in index.shards] == [shard.file for shard in shards]
    return index if same and index.pipeline_hash == work.recipe.digest(work.dataset.classes) else None
