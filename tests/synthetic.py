"""Small shards and experiments to train on, and `dhhpc` in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from dhhpc.data.shard_index import ShardIndex, record_of, write_index
from dhhpc.data.shard_writer import writing_shard


def write_shards(
    folder: Path,
    splits: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    classes: list[str],
    identifiers: dict[str, list[str]] | None = None,
) -> Path:
    """A shard a split, each given as images, targets (masks or one-hot labels) and regions."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for split, (images, targets, regions) in splits.items():
        path = folder / f"{split}-00000.h5"
        names = (identifiers or {}).get(split) or [f"{split}-{index}" for index in range(len(images))]
        with writing_shard(path, "float32") as writer:
            writer.extend(images, targets, regions, names)
        records.append(record_of(path, split, len(images)))
    index = ShardIndex(
        dataset="synthetic",
        task="segmentation" if targets.ndim == 3 else "classification",
        classes=classes,
        sample_shape=images.shape[1:],
        dtype="float32",
        regions=regions is not None,
        shards=records,
        pipeline=[],
        pipeline_hash="0" * 64,
        seconds=0.0,
    )
    write_index(folder, index)
    return folder


def write_discs(
    folder: Path, counts: dict[str, int], size: int = 16, seed: int = 0, regions: bool = False
) -> Path:
    """Segmentation shards: noisy images with a bright disc, whose mask is the disc."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    splits = {}
    for split, count in counts.items():
        down, right = rng.uniform(size * 0.3, size * 0.7, (2, count, 1, 1))
        masks = (rows - down) ** 2 + (columns - right) ** 2 < rng.uniform(2, size / 4, (count, 1, 1)) ** 2
        images = (masks + rng.normal(0, 0.3, masks.shape)).astype(np.float32)[:, None]
        inside = np.broadcast_to(columns < size * 0.8, masks.shape).astype(np.uint8) if regions else None
        splits[split] = (images, masks.astype(np.uint8), inside)
    return write_shards(folder, splits, ["disc"])


def write_stripes(folder: Path, counts: dict[str, int], size: int = 8, classes: int = 3) -> Path:
    """Classification shards: the class is the third of the image that is bright."""
    rng = np.random.default_rng(1)
    splits = {}
    for split, count in counts.items():
        labels = rng.integers(classes, size=count)
        images = rng.normal(0, 1, (count, 1, size, size)).astype(np.float32)
        for image, label in zip(images, labels, strict=True):
            image[:, :, label * size // classes : (label + 1) * size // classes] += 1
        splits[split] = (images, np.eye(classes, dtype=np.uint8)[labels], None)
    return write_shards(folder, splits, [f"class{index}" for index in range(classes)])


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


def run_dhhpc(
    *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`dhhpc` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dhhpc", *map(str, arguments)],
        env=clean_environment() | (environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`dhhpc` in this process, which saves the start of another and what it imports."""
    from dhhpc.cli.app import main

    out, errors, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["dhhpc", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())
