"""Shards as a set of samples: read a sample at a time, from any thread, and kept in memory if they fit."""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dhhpc.data.dataset import SPLITS
from dhhpc.data.shard_index import INDEX_NAME, ShardIndex, ShardRecord, read_index, record_of, write_index
from dhhpc.data.shard_writer import writing_shard
from dhhpc.data.targets import Task, target_channels
from dhhpc.errors import DhhpcError
from dhhpc.files import sha256_of

Array = np.ndarray[Any, Any]

# The whole door to shards: what writes them comes from the modules beside this one.
__all__ = [
    "INDEX_NAME",
    "ShardIndex",
    "ShardSet",
    "check_shard",
    "read_index",
    "record_of",
    "write_index",
    "writing_shard",
]

DEFAULT_CACHE_BYTES = 512 * 2**20
OPEN_FILES = 64
# What `dhhpc preprocess` puts behind the id of a volume for each of its slices.
SLICE = re.compile(r"/\d+$")


@contextlib.contextmanager
def opening_shard(path: Path) -> Iterator[h5py.File]:
    """A shard open for reading; without HDF5's file locks, which shared file systems often refuse.

    Raises:
        DhhpcError: the file is missing, cut short or damaged.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> DhhpcError:
    if isinstance(error, FileNotFoundError):
        return DhhpcError(f"{path}: the shard is missing; run `dhhpc preprocess` again")
    reason = str(error).splitlines()[0]
    return DhhpcError(f"{path}: the shard is damaged ({reason}); delete it and run `dhhpc preprocess` again")


def check_shard(folder: Path, record: ShardRecord, verify: bool = False) -> None:
    """Compare a shard with what the index says of it.

    Raises:
        DhhpcError: it is missing, has another size, or (verify) another content.
    """
    path = folder / record.file
    if not path.is_file():
        raise DhhpcError(f"{path}: the shard is missing; run `dhhpc preprocess` again")
    size = path.stat().st_size
    if size != record.bytes:
        raise DhhpcError(
            f"{path}: holds {size} bytes where {INDEX_NAME} says {record.bytes}: the shard is damaged; "
            f"delete it and run `dhhpc preprocess` again"
        )
    if verify and sha256_of(path) != record.sha256:
        raise DhhpcError(
            f"{path}: its SHA-256 is not the one in {INDEX_NAME}: the shard is damaged; delete it and "
            f"run `dhhpc preprocess` again"
        )


class ShardSet:
    """Every sample of a folder of shards, numbered from 0 in each split.

    Reading is safe from several threads. Samples are kept in memory once read, split by split as long as
    whole splits fit into `cache_bytes` (512 MiB by default; 0 turns it off).

    Args:
        folder: holds `index.json` and the shards.
        cache_bytes: the memory, in bytes, that samples may take.
        verify: also compare every file with its SHA-256.
        splits: those that are read, whose files must be there; all unless given.

    Raises:
        DhhpcError: a file is missing, has another size than the index says, or (verify) another content.
    """

    def __init__(
        self,
        folder: Path | str,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        verify: bool = False,
        splits: Sequence[str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        for record in self.index.of(splits):
            check_shard(self.folder, record, verify)
        self._records = {
            split: [record for record in self.index.shards if record.split == split] for split in SPLITS
        }
        self._starts = {
            split: np.cumsum([0] + [record.samples for record in records])
            for split, records in self._records.items()
        }
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[h5py.File, list[h5py.Dataset]]] = OrderedDict()
        self._cache: dict[str, dict[str, Array]] = {}
        self._plan_cache(cache_bytes)

    @property
    def splits(self) -> list[str]:
        """The splits that hold samples, in the order training, validation, test."""
        return [split for split in SPLITS if self.count(split)]

    @property
    def classes(self) -> list[str]:
        """Class names as in the dataset."""
        return self.index.classes

    @property
    def task(self) -> Task:
        """ "segmentation" (targets are masks) or "classification"."""
        return self.index.task

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.index.sample_shape

    @property
    def target_channels(self) -> int:
        """Channels of a target: what a network's output needs."""
        return target_channels(self.task, self.classes)

    def count(self, split: str) -> int:
        """The number of samples in a split (0 for one that the dataset does not have)."""
        return int(self._starts[split][-1]) if split in self._starts else 0

    def read(self, split: str, indices: Sequence[int] | Array) -> tuple[Array, Array, Array | None]:
        """Samples by their numbers.

        Returns:
            images (n, C, H, W) float32; masks (n, H, W) uint8 class indices, or labels (n, classes) uint8;
            and regions (n, H, W) uint8, None if the shards hold none.

        Raises:
            DhhpcError: a shard is damaged.
            IndexError: a number is not in the split.
        """
        indices = np.asarray(indices, dtype=np.intp)
        shape = self.sample_shape
        images = np.empty((len(indices), *shape), np.float32)
        targets = np.empty((len(indices), *self._target_shape), np.uint8)
        regions = np.empty((len(indices), *shape[1:]), np.uint8) if self.index.regions else None
        for row, index in enumerate(indices):
            self.read_into(
                split, int(index), images[row], targets[row], None if regions is None else regions[row]
            )
        return images, targets, regions

    def read_into(self, split: str, index: int, image: Array, target: Array, region: Array | None) -> None:
        """Write one sample into given arrays (shapes and dtypes of one row of `read`)."""
        with self.sample(split, index) as (stored_image, stored_target, stored_region):
            image[...] = stored_image
            target[...] = stored_target
            if region is not None:
                region[...] = stored_region

    @contextlib.contextmanager
    def sample(self, split: str, index: int) -> Iterator[tuple[Array, Array, Array | None]]:
        """One sample as stored (image, target, region): to be read, not written; no copy if cached."""
        if not 0 <= index < self.count(split):
            raise IndexError(f"sample {index} of split {split}, which has {self.count(split)}")
        cache = self._cache.get(split)
        if cache is not None and cache["held"][index]:
            yield (
                cache["images"][index],
                cache["targets"][index],
                cache["regions"][index] if "regions" in cache else None,
            )
            return
        image, target, region = self._load(split, index)
        if cache is not None:
            cache["images"][index], cache["targets"][index] = image, target
            if region is not None:
                cache["regions"][index] = region
            cache["held"][index] = True
        yield image, target, region

    def identifiers(self, split: str) -> list[str]:
        """The ids of a split's samples, in order."""
        ids: list[str] = []
        for record in self._records.get(split, []):
            with opening_shard(self.folder / record.file) as file:
                ids.extend(file["ids"].asstr()[:])
        return ids

    def groups(self, split: str) -> list[str]:
        """What each sample of a split belongs to: a patient where the dataset names them, else an image.

        In shards that do not tell, a sample's id without the number of its slice.
        """
        groups: list[str] = []
        for record in self._records.get(split, []):
            with opening_shard(self.folder / record.file) as file:
                if "groups" in file:
                    groups.extend(file["groups"].asstr()[:])
                else:
                    groups.extend(SLICE.sub("", identifier) for identifier in file["ids"].asstr()[:])
        return groups

    def labels(self, split: str) -> Array:
        """The labels (n, classes) uint8 of a split's samples; for segmentation (n, 1), all alike."""
        if self.task == "segmentation":
            return np.ones((self.count(split), 1), np.uint8)
        labels = [np.empty((0, len(self.classes)), np.uint8)]
        for record in self._records.get(split, []):
            with opening_shard(self.folder / record.file) as file:
                labels.append(file["labels"][:])
        return np.concatenate(labels)

    def cached_bytes(self, split: str, samples: int) -> int:
        """The memory that so many samples of a split keep once they have been read."""
        cache = self._cache.get(split)
        return 0 if cache is None else sum(array[:samples].nbytes for array in cache.values())

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1][0].close()

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return self.sample_shape[1:] if self.task == "segmentation" else (len(self.classes),)

    def _plan_cache(self, budget: int) -> None:
        """Reserve memory (touched only as samples arrive) for each split that still fits into the budget."""
        for split in self.splits:
            count = self.count(split)
            shapes: dict[str, tuple[tuple[int, ...], str]] = {
                "images": ((count, *self.sample_shape), self.index.dtype),
                "targets": ((count, *self._target_shape), "uint8"),
                "held": ((count,), "bool"),
            }
            if self.index.regions:
                shapes["regions"] = ((count, *self.sample_shape[1:]), "uint8")
            size = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
            if size <= budget:
                self._cache[split] = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
                budget -= size

    def _load(self, split: str, index: int) -> tuple[Array, Array, Array | None]:
        shard = int(np.searchsorted(self._starts[split], index, side="right")) - 1
        row = index - int(self._starts[split][shard])
        name = self._records[split][shard].file
        # HDF5 is not thread-safe: one reader at a time, also while the oldest open file is closed.
        with self._lock:
            try:
                parts = [dataset[row] for dataset in self._datasets(name)]
                return parts[0], parts[1], parts[2] if self.index.regions else None
            except (OSError, KeyError, RuntimeError, ValueError) as error:
                raise damaged(self.folder / name, error) from error

    def _datasets(self, name: str) -> list[h5py.Dataset]:
        """Images, targets and, where there are such, regions of an open shard."""
        if name not in self._open:
            if len(self._open) == OPEN_FILES:
                self._open.popitem(last=False)[1][0].close()
            # A chunk is a whole sample and read once: HDF5's chunk cache would only copy it.
            file = h5py.File(self.folder / name, "r", locking=False, rdcc_nbytes=0)
            parts = ["images", "masks" if self.task == "segmentation" else "labels"]
            self._open[name] = file, [file[part] for part in parts + ["regions"] * self.index.regions]
        self._open.move_to_end(name)
        return self._open[name][1]
