"""Shards: preprocessed samples in HDF5 files with an index, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin
import numpy as np
import pydantic

from dhhpc.data.targets import Task, target_channels
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, replacing, sha256_of, write_json

Array = np.ndarray[Any, Any]

INDEX_NAME = "index.json"
SCHEMA_VERSION = 1
SPLITS = ("training", "validation", "test")
DEFAULT_CACHE_BYTES = 512 * 2**20
OPEN_FILES = 64

# LZ4 after a byte shuffle: a third of the size of typical float32 slices, decoded at over 1 GB/s a core.
COMPRESSION = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)


class ShardRecord(Document):
    """One shard file: its name, split, number of samples, size in bytes and SHA-256."""

    file: str
    split: str
    samples: int
    bytes: int
    sha256: str


class SkippedImage(Document):
    """An image that preprocessing left out, and why."""

    location: str
    reason: str


class ShardIndex(Document):
    """What `index.json` holds.

    Attributes:
        classes: class names as in the dataset; see `dhhpc.data.targets` for how masks number them.
        sample_shape: (channels, height, width) of every image.
        pipeline: the preprocessing steps; `pipeline_hash` is the SHA-256 of everything that shapes the
            samples.
        seconds: wall time of the run that finished the shards (T2 of the KPI toppi).
    """

    schema_version: Literal[1] = 1
    dataset: str
    task: Task
    classes: list[str]
    sample_shape: tuple[int, int, int]
    dtype: Literal["float32", "float16"]
    regions: bool
    shards: list[ShardRecord]
    pipeline: list[dict[str, Any]]
    pipeline_hash: str
    skipped: list[SkippedImage] = pydantic.Field(default_factory=list)
    ranks: int = 1
    seconds: float


class GuardedFile(io.RawIOBase):
    """A file under HDF5 that remembers a failed write instead of reporting it.

    HDF5 cannot close a file whose last writes fail (full disk) and takes the whole process down when it
    exits. So a failure is kept in `error`, everything after it is swallowed, and the writer raises it once
    HDF5 is done.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed with this object
        self.error: OSError | None = None

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        if self.error is not None:  # what was swallowed reads as zeros
            view[count:] = bytes(len(view) - count)
            return len(view)
        return count

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self.error is None and written < len(view):
                written += self._file.write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        if self.error is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        pass  # unbuffered

    def close(self) -> None:
        self._file.close()
        super().close()


class ShardWriter:
    """Appends samples to one shard; made by `writing_shard`."""

    def __init__(self, file: h5py.File, guard: GuardedFile, dtype: str) -> None:
        self._file, self._guard, self._dtype = file, guard, dtype
        self.samples = 0
        file.create_dataset("ids", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(256,))

    def extend(
        self, images: Array, targets: Array, regions: Array | None, identifiers: Sequence[str]
    ) -> None:
        """Add n samples.

        Args:
            images: (n, C, H, W), stored as the shard's dtype.
            targets: masks (n, H, W) of class indices below 256, or labels (n, classes) of 0 and 1; stored
                uint8.
            regions: (n, H, W), not 0 where evaluation counts, or None; stored uint8.
            identifiers: the n ids, free of patient identifiers.
        """
        self._add("images", images, self._dtype)
        self._add("masks" if targets.ndim == 3 else "labels", targets, "uint8")
        if regions is not None:
            self._add("regions", regions, "uint8")
        ids = self._file["ids"]
        ids.resize(self.samples + len(identifiers), axis=0)
        ids[self.samples :] = identifiers
        self.samples += len(identifiers)
        if self._guard.error is not None:
            raise self._guard.error

    def note(self, name: str, lines: list[str]) -> None:
        """Keep lines of text with the shard, as a dataset of strings."""
        self._file.create_dataset(name, (len(lines),), h5py.string_dtype(), data=lines or None)

    def _add(self, name: str, values: Array, dtype: str) -> None:
        shape = values.shape[1:]
        if name not in self._file:
            self._file.create_dataset(
                name,
                (0, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=(1, *shape),
                fletcher32=True,  # a flipped bit on disk is an error on reading, not a wrong sample
                **COMPRESSION,
            )
        dataset = self._file[name]
        dataset.resize(self.samples + len(values), axis=0)
        dataset[self.samples :] = values


@contextlib.contextmanager
def writing_shard(path: Path, dtype: str) -> Iterator[ShardWriter]:
    """Write a shard under a temporary name and rename it to `path` at the end; nothing is left after a
    failure.

    The bytes depend on the samples and notes alone (HDF5 keeps no times here).

    Raises:
        DhhpcError: the file cannot be written; names it and the mend.
    """
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(replacing(path))
        guard = GuardedFile(temporary)
        try:
            with h5py.File(guard, "w") as file:
                writer = ShardWriter(file, guard, dtype)
                yield writer
        finally:
            guard.close()
        if guard.error is not None:
            raise guard.error


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


def record_of(path: Path, split: str, samples: int) -> ShardRecord:
    """The index's record of a finished shard file."""
    return ShardRecord(
        file=path.name, split=split, samples=samples, bytes=path.stat().st_size, sha256=sha256_of(path)
    )


def write_index(folder: Path, index: ShardIndex) -> None:
    write_json(folder / INDEX_NAME, index.model_dump(mode="json"))


def read_index(folder: Path | str) -> ShardIndex:
    """The index of a folder of shards.

    Raises:
        DhhpcError: there is none (preprocessing did not finish), or it is not one of this version.
    """
    path = Path(folder) / INDEX_NAME
    if not path.is_file():
        raise DhhpcError(
            f"{path}: no such file; run `dhhpc preprocess` to its end, or mend the folder's name"
        )
    value = read_json(path)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise DhhpcError(
            f"{path}: schema version {version} where {SCHEMA_VERSION} is expected; "
            f"run `dhhpc preprocess` again"
        )
    try:
        return ShardIndex.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise DhhpcError(f"{path}: {name}: {first['msg']}; run `dhhpc preprocess` again") from None


class ShardSet:
    """Every sample of a folder of shards, numbered from 0 in each split.

    Reading is safe from several threads. Samples are kept in memory once read, split by split as long as
    whole splits fit into `cache_bytes` (512 MiB by default; 0 turns it off).

    Args:
        folder: holds `index.json` and the shards.
        cache_bytes: the memory, in bytes, that samples may take.
        verify: also compare every file with its SHA-256.

    Raises:
        DhhpcError: a file is missing, has another size than the index says, or (verify) another content.
    """

    def __init__(
        self, folder: Path | str, cache_bytes: int = DEFAULT_CACHE_BYTES, verify: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        for record in self.index.shards:
            self._check(record, verify)
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

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1][0].close()

    @property
    def _target_shape(self) -> tuple[int, ...]:
        return self.sample_shape[1:] if self.task == "segmentation" else (len(self.classes),)

    def _check(self, record: ShardRecord, verify: bool) -> None:
        path = self.folder / record.file
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
