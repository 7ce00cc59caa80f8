"""Generated images to time training on, and an experiment that does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dhhpc.data.shard_index import ShardIndex, record_of, write_index
from dhhpc.data.shard_writer import writing_shard


def write_shards(folder: Path, images: int, size: int) -> None:
    """One shard of noisy images (1, size, size) with a bright square in the middle, whose mask it is."""
    random = np.random.default_rng(1)
    masks = np.zeros((images, size, size), np.uint8)
    masks[:, size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 1
    values = (masks + random.normal(0, 0.3, masks.shape)).astype(np.float32)[:, None]
    path = folder / "training-00000.h5"
    folder.mkdir()
    with writing_shard(path, "float32") as writer:
        writer.extend(values, masks, None, [str(number) for number in range(images)])
    index = ShardIndex(
        dataset="squares",
        task="segmentation",
        classes=["square"],
        sample_shape=(1, size, size),
        dtype="float32",
        regions=False,
        shards=[record_of(path, "training", images)],
        pipeline=[],
        pipeline_hash="0" * 64,
        seconds=0.0,
    )
    write_index(folder, index)


def write_experiment(path: Path, channels: list[int], **more: Any) -> None:
    """An experiment that trains a U-Net of these channels on the `shards` beside it, with `more` keys."""
    document = {
        "name": path.stem,
        "data": {"shards": "shards"},
        "network": {"name": "unet", "channels": channels},
        "loss": "binary_cross_entropy",
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
    }
    path.write_text(yaml.safe_dump(document | more))
