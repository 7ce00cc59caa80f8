"""Batches for training: each rank's part of every global batch, made ahead of time in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pydantic

from dhhpc.data.shards import ShardSet
from dhhpc.data.targets import write_mask_target
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.mpi.workload import parts

Array = np.ndarray[Any, Any]
# Batches that are made ahead of the one in use.
PREFETCH = 2


class Augmentation(Protocol):
    """What the loader needs of an augmentation; `dhhpc.ecvl` holds the real ones."""

    def apply(
        self, array: Array, mask: Array | None, region: Array | None, rng: np.random.Generator
    ) -> tuple[Array, Array | None, Array | None]:
        """Change (C, H, W) float32 with its mask and region in step; all keep their shapes."""


class Patch(Document):
    """Random patches instead of whole images.

    Attributes:
        size: (height, width) in pixels.
        per_image: patches drawn from every image in an epoch; each counts as a sample.
        foreground: the probability that a patch is centred on a random foreground pixel (as far as the
            image's border allows) instead of lying anywhere; images without foreground are not affected.
    """

    size: tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    per_image: pydantic.PositiveInt = 1
    foreground: float = pydantic.Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch of n samples; n may be 0 in the last batch of an epoch.

    Attributes:
        images: (n, C, H, W) float32, H and W of the patch where patches are drawn.
        targets: float32, (n, channels, H, W) for segmentation, (n, classes) for classification.
        indices: (n,) numbers of the samples; sample i is patch i % per_image of image i // per_image.
        global_count: samples of this batch over all ranks, to weigh averages.
        regions: (n, H, W) uint8, not 0 where evaluation counts, or None.
        first: where this part begins in the global batch.
    """

    images: Array
    targets: Array
    indices: Array
    global_count: int
    regions: Array | None
    first: int


class Loader:
    """Draws the batches of one split for one rank.

    The order of an epoch is one permutation over all ranks, seeded by [seed, epoch]; global batch g is its
    g-th piece of batch_size * ranks samples, of which every rank takes a contiguous part, in proportion to
    its weight. So each sample comes exactly once an epoch over all ranks, uneven tail included, and the
    global batches of N ranks are those of one rank with an N times larger batch. Everything random about a
    sample comes from [seed, epoch, sample], whatever rank and thread makes it.

    Args:
        shards: where the samples lie.
        split: "training", "validation" or "test".
        batch_size: samples per rank and batch.
        rank, ranks: this rank and how many there are.
        seed: of order, patches and augmentations.
        patch: `Patch`, or its keys as a mapping, or None for whole images.
        augmentations: applied in order to every image (after the patch is cut).
        shuffle: False keeps the order of the shards (evaluation).
        threads: batches made at the same time.
        prefetch: batches made ahead of the one in use.

    Attributes:
        weights: of every rank; all alike at first. They may change between epochs, alike on all ranks.

    Raises:
        DhhpcError: the split is empty, or the patch does not fit the images.
    """

    def __init__(
        self,
        shards: ShardSet,
        split: str,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        patch: Patch | dict[str, Any] | None = None,
        augmentations: Sequence[Augmentation] = (),
        shuffle: bool = True,
        threads: int = 1,
        prefetch: int = PREFETCH,
    ) -> None:
        if batch_size < 1 or threads < 1 or prefetch < 0 or not 0 <= rank < ranks:
            raise ValueError(f"{batch_size=}, {threads=}, {prefetch=}, {rank=} of {ranks=}")
        if not shards.count(split):
            found = ", ".join(shards.splits) or "none at all"
            raise DhhpcError(f"{shards.folder}: no samples in split `{split}`; it has {found}")
        self.shards, self.split, self.batch_size = shards, split, batch_size
        self.rank, self.ranks, self.seed = rank, ranks, seed
        self.patch = Patch.model_validate(patch) if isinstance(patch, dict) else patch
        self.augmentations = tuple(augmentations)
        self.shuffle, self.threads, self.prefetch = shuffle, threads, prefetch
        self.weights = [1.0] * ranks
        if self.patch:
            self._check_patch(self.patch)

    @property
    def count(self) -> int:
        """Samples in an epoch, over all ranks."""
        return self.shards.count(self.split) * (self.patch.per_image if self.patch else 1)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images in a batch."""
        channels, height, width = self.shards.sample_shape
        return (channels, *(self.patch.size if self.patch else (height, width)))

    def batches(self, start: int = 0) -> int:
        """Global batches in an epoch from its sample `start` on: the same number on every rank."""
        return -(-(self.count - start) // (self.batch_size * self.ranks))

    def order(self, epoch: int) -> Array:
        """The samples of an epoch in their global order, (count,) int64."""
        if not self.shuffle:
            return np.arange(self.count)
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """This rank's batches of an epoch from its sample `start` on, in the order over all ranks.

        Raises:
            DhhpcError: a shard is damaged (raised here, whichever thread met it).
        """
        order = self.order(epoch)[start:]
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        try:
            for number in range(self.batches(start)):
                waiting.append(pool.submit(self._batch, order, epoch, number))
                if len(waiting) > self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, order: Array, epoch: int, number: int) -> Batch:
        size = self.batch_size * self.ranks
        whole = order[number * size : (number + 1) * size]
        part = parts(len(whole), self.weights)[self.rank]
        indices = whole[part.start : part.stop]
        shape = self.sample_shape
        segmentation = self.shards.task == "segmentation"
        spatial = shape[1:] if segmentation else ()
        images = np.empty((len(indices), *shape), np.float32)
        targets = np.empty((len(indices), self.shards.target_channels, *spatial), np.float32)
        regions = np.empty((len(indices), *shape[1:]), np.uint8) if self.shards.index.regions else None
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self.seed, epoch, int(index)])
            self._sample(
                int(index), rng, images[row], targets[row], None if regions is None else regions[row]
            )
        return Batch(images, targets, indices, len(whole), regions, part.start)

    def _sample(
        self, index: int, rng: np.random.Generator, image: Array, target: Array, region: Array | None
    ) -> None:
        """Write sample `index` into one row of each of a batch's arrays."""
        segmentation = self.shards.task == "segmentation"
        per_image = self.patch.per_image if self.patch else 1
        with self.shards.sample(self.split, index // per_image) as (stored, stored_target, stored_region):
            window: Any = ...
            if self.patch:
                window = patch_window(
                    self.patch, stored.shape[1:], stored_target if segmentation else None, rng
                )
            image[...] = stored[:, *window] if self.patch else stored
            mask = stored_target[window] if segmentation else None
            if not segmentation:
                target[...] = stored_target
            area = stored_region[window] if stored_region is not None else None
        if self.augmentations:  # they may work in place, and the cache must keep what is stored
            mask, area = (None if array is None else array.copy() for array in (mask, area))
        for augmentation in self.augmentations:
            changed, mask, area = augmentation.apply(image, mask, area, rng)
            if changed is not image:
                image[...] = changed
        if mask is not None:
            write_mask_target(mask, target)
        if region is not None and area is not None:
            region[...] = area

    def _check_patch(self, patch: Patch) -> None:
        height, width = self.shards.sample_shape[1:]
        if patch.size[0] > height or patch.size[1] > width:
            raise DhhpcError(
                f"{self.shards.folder}: patch size {patch.size[0]} x {patch.size[1]} is larger than the "
                f"images ({height} x {width}); choose a smaller patch"
            )
        if patch.foreground and self.shards.task != "segmentation":
            raise DhhpcError(
                f"{self.shards.folder}: patch foreground {patch.foreground} needs masks, and these shards "
                f"hold class labels; leave it out"
            )


def patch_window(
    patch: Patch, shape: tuple[int, ...], mask: Array | None, rng: np.random.Generator
) -> tuple[slice, slice]:
    """A random place for a patch in an image of `shape` (height, width), given its mask (height, width)."""
    corner = [int(rng.integers(extent - size + 1)) for extent, size in zip(shape, patch.size, strict=True)]
    if mask is not None and rng.random() < patch.foreground:
        foreground = np.flatnonzero(mask)
        if len(foreground):
            centre = np.unravel_index(foreground[rng.integers(len(foreground))], mask.shape)
            corner = [
                int(np.clip(at - size // 2, 0, extent - size))
                for at, size, extent in zip(centre, patch.size, shape, strict=True)
            ]
    top, left = corner
    return slice(top, top + patch.size[0]), slice(left, left + patch.size[1])
