"""Writing one shard: samples into an HDF5 file that appears under its name whole or not at all."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from dhhpc.files import replacing

Array = np.ndarray[Any, Any]

# LZ4 after a byte shuffle: a third of the size of typical float32 slices, decoded at over 1 GB/s a core.
COMPRESSION = hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)


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
