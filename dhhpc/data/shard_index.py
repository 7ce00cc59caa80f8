"""`index.json`: which shards there are, what is in them and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from dhhpc.data.targets import Task
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, sha256_of, write_json

INDEX_NAME = "index.json"
SCHEMA_VERSION = 1


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
        task: what the samples are for: they may have classes that were told from the dataset's masks.
        classes: class names as in the dataset; see `dhhpc.data.targets` for how masks number them.
        sample_shape: (channels, height, width) of every image.
        tiles: (height, width) of the tiles that images were cut into, None for whole images.
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
    tiles: tuple[int, int] | None = None
    regions: bool
    shards: list[ShardRecord]
    pipeline: list[dict[str, Any]]
    pipeline_hash: str
    skipped: list[SkippedImage] = pydantic.Field(default_factory=list)
    ranks: int = 1
    seconds: float

    def of(self, splits: Sequence[str] | None) -> list[ShardRecord]:
        """The shards of some splits; of all for None."""
        return [record for record in self.shards if splits is None or record.split in splits]


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
