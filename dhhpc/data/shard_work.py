"""The work on one shard: from its images to a finished file, and telling whether it is finished already."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc import ecvl
from dhhpc.data.dataset import Dataset, ImageEntry
from dhhpc.data.samples import Samples, samples_of, title
from dhhpc.data.shard_index import SCHEMA_VERSION, ShardRecord, SkippedImage, record_of
from dhhpc.data.shard_writer import writing_shard
from dhhpc.data.shards import opening_shard
from dhhpc.data.targets import Task
from dhhpc.data.tiles import classes_of_masks, classified, tiled
from dhhpc.errors import DhhpcError


@dataclass(frozen=True)
class Shard:
    """One unit of work: the file, its split, and the numbers of its images in the dataset."""

    file: str
    split: str
    images: list[int]


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: its record, its samples' shape (None without any), and the images left out."""

    record: ShardRecord
    shape: tuple[int, ...] | None
    skipped: list[SkippedImage]


@dataclass(frozen=True)
class Recipe:
    """All that shapes the samples of a shard, beside its images. See `Preprocess` for the meanings."""

    pipeline: ecvl.Pipeline
    slices: bool
    keep_empty: float
    seed: int
    dtype: str
    skip_damaged: bool
    with_region: bool
    secret: bytes | None
    tiles: tuple[int, int] | None = None
    least_pixels: int | None = None

    def digest(self, content: Any) -> str:
        """A fingerprint of this recipe and `content`; under the secret, so that it gives no location away."""
        steps = self.pipeline.model_dump(mode="json")
        recipe = [
            SCHEMA_VERSION,
            steps,
            self.slices,
            self.keep_empty,
            self.seed,
            self.dtype,
            self.with_region,
        ]
        if self.tiles or self.least_pixels:
            recipe.append([self.tiles, self.least_pixels])
        text = json.dumps([*recipe, content], sort_keys=True)
        return hmac.new(self.secret or b"", text.encode(), hashlib.sha256).hexdigest()


class ShardWork:
    """Makes the shards of one dataset by one recipe in one folder."""

    def __init__(self, dataset: Dataset, recipe: Recipe, output: Path) -> None:
        self.dataset, self.recipe, self.output = dataset, recipe, output
        # Of the samples, which may have classes where the dataset has masks.
        self.task: Task = "classification" if recipe.least_pixels else dataset.task
        self.classes = classes_of_masks(dataset.classes) if recipe.least_pixels else dataset.classes

    def finished(self, shard: Shard) -> Outcome | None:
        """The outcome of an earlier run, if its file is whole and of the same images and recipe.

        A file that is not is removed.
        """
        path = self.output / shard.file
        if not path.exists():
            return None
        try:
            with opening_shard(path) as file:
                if list(file["work"].asstr()[:]) == [self._fingerprint(shard)]:
                    shape = None
                    for name, dataset in file.items():
                        for row in range(len(dataset)):
                            dataset[row]  # checks the checksum of every chunk
                        shape = dataset.shape[1:] if name == "images" else shape
                    skipped = [SkippedImage.model_validate_json(text) for text in file["skipped"].asstr()[:]]
                    samples = len(file["ids"])
                    if self.recipe.skip_damaged or not skipped:
                        return Outcome(record_of(path, shard.split, samples), shape, skipped)
        except DhhpcError:
            pass
        path.unlink(missing_ok=True)
        return None

    def make(self, shard: Shard, on_skip: Callable[[str], None]) -> Outcome:
        """Write the shard's file, whole or not at all; `on_skip` hears why an image is left out.

        Raises:
            DhhpcError: an image is damaged (unless such are skipped), samples have different shapes, or the
                file cannot be written.
        """
        path = self.output / shard.file
        fingerprint = self._fingerprint(shard)
        skipped: list[SkippedImage] = []
        shape: tuple[int, ...] | None = None
        groups: list[str] = []
        with writing_shard(path, self.recipe.dtype) as writer:
            for number in shard.images:
                entry = self.dataset.images[number]
                name = title(self.dataset.file(entry.location))
                try:
                    samples = self._samples(shard, number)
                except DhhpcError as error:
                    if not self.recipe.skip_damaged:
                        raise
                    on_skip(str(error))
                    skipped.append(self._skipped(number, entry, str(error)))
                    continue
                shape = shape or samples.images.shape[1:]
                if samples.images.shape[1:] != shape:
                    raise different_shapes(name, samples.images.shape[1:], shape)
                identifier = self._identifier(entry)
                names = (
                    [identifier]
                    if samples.names is None
                    else [f"{identifier}/{name}" for name in samples.names]
                )
                if len(samples.images):
                    writer.extend(samples.images, samples.targets, samples.regions, names)
                    groups += [self._group(entry) or identifier] * len(names)
            writer.note("groups", groups)
            writer.note("work", [fingerprint])
            writer.note("skipped", [image.model_dump_json() for image in skipped])
            count = writer.samples
        return Outcome(record_of(path, shard.split, count), shape, skipped)

    def _samples(self, shard: Shard, number: int) -> Samples:
        entry = self.dataset.images[number]
        recipe = self.recipe
        samples = samples_of(
            self.dataset, entry, recipe.pipeline, recipe.slices, recipe.with_region, recipe.secret
        )
        if recipe.tiles:
            try:
                samples = tiled(samples, recipe.tiles)
            except DhhpcError as error:
                raise DhhpcError(f"{title(self.dataset.file(entry.location))}: {error}") from None
        if recipe.least_pixels:
            samples = classified(samples, self.dataset.classes, recipe.least_pixels)
        thinned = shard.split == "training" and recipe.keep_empty < 1 and samples.names is not None
        if not thinned or self.dataset.task != "segmentation":
            return samples
        # Drawn by the image's number: neither ranks nor the images before it change the choice.
        draws = np.random.default_rng([recipe.seed, number]).random(len(samples.images))
        filled = samples.targets[:, 0] == 0 if recipe.least_pixels else samples.targets.any(axis=(1, 2))
        return samples.kept((draws < recipe.keep_empty) | filled)

    def _identifier(self, entry: ImageEntry) -> str:
        return self._name(location_text(entry))

    def _group(self, entry: ImageEntry) -> str | None:
        """Whose image it is, as far as the dataset tells: what cross-validation keeps together."""
        value = entry.values.get("patient")
        return None if value is None else self._name(str(value))

    def _name(self, text: str) -> str:
        return text if self.recipe.secret is None else ecvl.pseudonym(text, self.recipe.secret)

    def _skipped(self, number: int, entry: ImageEntry, reason: str) -> SkippedImage:
        """Index and shards go where identified data must not: without locations, which may hold names."""
        if self.recipe.secret is None:
            return SkippedImage(location=location_text(entry), reason=reason)
        return SkippedImage(location=f"image {number} of the dataset", reason="damaged or unfit")

    def _fingerprint(self, shard: Shard) -> str:
        """Of everything that the shard is made from: entries, classes, and size and time of every file."""
        content = []
        for number in shard.images:
            entry = self.dataset.images[number]
            files = [self.dataset.file(entry.location)]
            if self.dataset.label_kind(entry) == "mask":
                files.append(self.dataset.mask_files(entry))
            if entry.values.get("region") is not None:
                files.append(self.dataset.file(entry.values["region"]))
            stamps = [stamp(file) for part in files for file in (part if isinstance(part, list) else [part])]
            region = entry.values.get("region")
            content.append([number, entry.location, entry.label, region, self._group(entry), stamps])
        return self.recipe.digest([shard.split, self.dataset.classes, content])


def stamp(path: Path) -> list[Any]:
    """Size and time of a file, or of all files in a folder; nothing for a missing one: reading will tell."""
    if path.is_dir():
        return [[file.name, *stamp(file)] for file in sorted(path.iterdir()) if file.is_file()]
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def location_text(entry: ImageEntry) -> str:
    return entry.location if isinstance(entry.location, str) else entry.location[0]


def different_shapes(name: str, shape: Sequence[int], other: Sequence[int]) -> DhhpcError:
    texts = [" x ".join(map(str, sizes)) for sizes in (shape, other)]
    return DhhpcError(
        f"{name}: gives samples of {texts[0]} (channels x height x width) where others have {texts[1]}; "
        f"add a `crop_or_pad` or `resize` step"
    )
