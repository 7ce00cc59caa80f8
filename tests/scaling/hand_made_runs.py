"""Run records and machines whose forecast can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from dhhpc.training.experiment import Experiment

# Nothing but computing takes time.
FREE = {
    "name": "free",
    "nodes": 1,
    "cores_per_node": 2,
    "ranks_per_node": 64,
    "within": {"latency": 0, "bandwidth": 1e30},
    "across": {"latency": 0, "bandwidth": 1e30},
    "memory": {"gigabytes": 1, "bandwidth": 1e30},
    "storage": {"bandwidth": 1e30, "node_bandwidth": 1e30},
}

NOTHING = dict.fromkeys(("data", "compute", "communication", "wait", "validation"), 0.0)


def machine(folder: Path, **changes) -> Path:
    path = folder / "machine.yml"
    path.write_text(yaml.safe_dump(FREE | changes))
    return path


def record(
    folder: Path, ranks: int = 1, sample: float = 0.025, cores: int = 2, threads: int = 1, **parallel
) -> Path:
    """A run of 400 samples in batches of 4 a rank, three epochs, whose ranks take `sample` seconds each."""
    experiment = {
        "name": "hand",
        "data": {"shards": "/s"},
        "network": {"name": "unet"},
        "loss": "dice",
        "optimizer": {"name": "sgd"},
        "batch_size": 4,
        "epochs": 10,
        "parallel": parallel or {"method": "fixed", "period": 5},
    }
    batches = 400 // 4 // ranks
    work = 400 / ranks * sample
    of_rank = NOTHING | {"data": 0.1 * work, "compute": 0.9 * work, "validation": 1.0}
    epoch = {
        "seconds": work + 0.5,
        "batches": batches,
        "period": 5,
        "averagings": batches // 5,
        "bytes_sent": 0,
        "weights": [1.0] * ranks,
        "validation_seconds": 8 / ranks * 0.125,
        "ranks": [of_rank] * ranks,
        "paces": [{"samples": 400 // ranks, "seconds": sample}] * ranks,
        "checkpoint_seconds": 0.25,
    }
    content = {
        "schema_version": 1,
        "status": "finished",
        "experiment": Experiment.model_validate(experiment).model_dump(mode="json"),
        "ranks": ranks,
        "threads": threads,
        "threads_of_ranks": [threads] * ranks,
        "cores": cores,
        "hosts": ["far"],
        "processes": [f"far:{rank}" for rank in range(ranks)],
        "samples": {"training": 400, "validation": 8},
        "parameters": 1000,
        "kpis": {"totm": 3 * (work + 0.5 + 8 / ranks * 0.125 + 0.25) + 2.0},
        "history": [epoch | {"epoch": number} for number in range(3)],
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(content))
    return folder
