"""What the trained networks do on the test split: their metrics, and a few predicted masks to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dhhpc.data.shards import ShardSet
from dhhpc.files import replacing
from dhhpc.mpi import World
from dhhpc.training import evaluate, load_network, read_run, use_threads
from dhhpc.training.network import CreateNetwork, predict_any_size

Array = np.ndarray[Any, Any]

EXAMPLES_NAME = "examples.npz"
EXAMPLES = 5


def evaluate_run(run: Path, create: CreateNetwork) -> None:
    """Put the metrics of the test split into metrics.json of a finished run folder, unless they are there.

    Raises:
        DhhpcError: the run's files or its shards are missing or damaged.
    """
    record = read_run(run)
    if "test" in record.metrics():
        return
    world = World()
    use_threads(world, None)
    model, _, shards = load_network(record, create)
    record.write_metrics("test", evaluate(model, shards, "test", world))


def save_examples(run: Path, folder: Path, create: CreateNetwork) -> list[str]:
    """Predict a few masks of the test split with a run's network, and keep them in `folder/examples.npz`.

    Taken are test samples with foreground, evenly spaced in the split's order, so from several patients.

    Returns:
        The ids of the samples; none for a task without masks.
    """
    use_threads(World(), None)
    model, _, shards = load_network(read_run(run), create)
    if shards.task != "segmentation":
        return []
    chosen = choose(shards)
    images, masks, _ = shards.read("test", chosen)
    probabilities = predict_any_size(model, images)
    single = probabilities.shape[1] == 1
    predictions = probabilities[:, 0] > 0.5 if single else probabilities.argmax(axis=1) > 0
    identifiers = shards.identifiers("test")
    names = [identifiers[index] for index in chosen]
    with replacing(folder / EXAMPLES_NAME) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file, images=images, truths=masks != 0, predictions=predictions, names=np.array(names)
        )
    return names


def choose(shards: ShardSet) -> list[int]:
    """Numbers of up to five test samples, those with foreground first."""
    count = shards.count("test")
    filled = [index for index in range(count) if shards.read("test", [index])[1].any()]
    candidates = filled or list(range(count))
    places = np.linspace(0, len(candidates), min(EXAMPLES, len(candidates)), endpoint=False)
    middle = len(candidates) / max(1, len(places)) / 2
    return [candidates[int(place + middle)] for place in places]


def read_examples(folder: Path) -> tuple[Array, Array, Array, list[str]] | None:
    """images (n, C, H, W), true and predicted masks (n, H, W) and ids, as saved; None if there are none."""
    path = folder / EXAMPLES_NAME
    if not path.is_file():
        return None
    with np.load(path) as file:
        return file["images"], file["truths"], file["predictions"], [str(name) for name in file["names"]]
