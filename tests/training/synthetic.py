"""Small shards and experiments for the tests of training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from dhhpc.data.shards import ShardIndex, record_of, write_index, writing_shard


def write_discs(
    folder: Path, counts: dict[str, int], size: int = 16, seed: int = 0, regions: bool = False
) -> Path:
    """Segmentation shards: noisy images with a bright disc, whose mask is the disc."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    rows, columns = np.mgrid[:size, :size]
    for split, count in counts.items():
        path = folder / f"{split}-00000.h5"
        with writing_shard(path, "float32") as writer:
            for index in range(count):
                centre = rng.uniform(size * 0.3, size * 0.7, 2)
                mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < rng.uniform(2, size / 4) ** 2
                image = mask + rng.normal(0, 0.3, mask.shape)
                region = (columns < size * 0.8).astype(np.uint8) if regions else None
                writer.extend(
                    image[None, None].astype(np.float32),
                    mask[None].astype(np.uint8),
                    None if region is None else region[None],
                    [f"disc-{index}"],
                )
        records.append(record_of(path, split, count))
    write_index(folder, index_of(records, "segmentation", ["disc"], (1, size, size), regions))
    return folder


def write_blobs(folder: Path, counts: dict[str, int], size: int = 8, classes: int = 3) -> Path:
    """Classification shards: the class is the third of the image that is bright."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for split, count in counts.items():
        path = folder / f"{split}-00000.h5"
        with writing_shard(path, "float32") as writer:
            for index in range(count):
                label = int(rng.integers(classes))
                image = rng.normal(0, 1, (1, size, size)).astype(np.float32)
                image[:, :, label * size // classes : (label + 1) * size // classes] += 1
                one_hot = np.eye(classes, dtype=np.uint8)[[label]]
                writer.extend(image[None], one_hot, None, [f"blob-{index}"])
        records.append(record_of(path, split, count))
    names = [f"class{index}" for index in range(classes)]
    write_index(folder, index_of(records, "classification", names, (1, size, size), False))
    return folder


def index_of(records, task, classes, sample_shape, regions) -> ShardIndex:
    return ShardIndex(
        dataset="synthetic",
        task=task,
        classes=classes,
        sample_shape=sample_shape,
        dtype="float32",
        regions=regions,
        shards=records,
        pipeline=[],
        pipeline_hash="0" * 64,
        seconds=0.0,
    )


def experiment_document(shards: Path, output: Path, **changes) -> dict:
    """A U-Net without batch normalisation, plain SGD, as keys of an experiment file."""
    return {
        "name": "discs",
        "data": {"shards": str(shards)},
        "network": {"name": "unet", "channels": [4, 8], "normalization": False},
        "loss": "binary_cross_entropy",
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "batch_size": 4,
        "epochs": 2,
        "threads": 1,
        "seed": 3,
        "checkpoint": {"select": "last"},
        "output": str(output),
    } | changes


def write_experiment(path: Path, shards: Path, output: Path, **changes) -> Path:
    path.write_text(yaml.safe_dump(experiment_document(shards, output, **changes)))
    return path


def clean_environment() -> dict[str, str]:
    """The environment without the traces of a launcher."""
    prefixes = ("PMI", "PMIX", "OMPI", "MPI_", "HYD", "SLURM", "DHHPC_EXPECTED")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def run_dhhpc(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`dhhpc` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dhhpc", *map(str, arguments)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
