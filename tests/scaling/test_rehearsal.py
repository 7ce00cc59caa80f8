"""Rehearsals against trainings: the memory of real processes, and the time they take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dhhpc import zoo
from dhhpc.mpi.launch import environment_for, mpiexec
from dhhpc.scaling.resources.rehearsal import Rehearsal, read_rehearsal
from dhhpc.scaling.resources.suggestion import MEMORY_MARGIN, work_of
from dhhpc.training import read_experiment
from dhhpc.training.footprint import Counting
from tests import synthetic

MIB = 2**20
SAMPLES = {"training": 24, "validation": 6}
# Of what is counted, and of a process that two trainings never load alike: how far off an estimate may be.
COUNTED, PROCESS = 0.25, 24 * MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsals")
    synthetic.write_discs(folder / "discs", SAMPLES, size=64)
    synthetic.write_stripes(folder / "stripes", SAMPLES, size=64)
    return folder


def rehearsed(file: Path, *options: object) -> Rehearsal:
    output = file.with_suffix(".json")
    done = synthetic.run_dhhpc("scale", "rehearse", file, "--seconds", 1, "--output", output, *options)
    assert done.returncode == 0, done.stderr
    return read_rehearsal(output, read_experiment(file))


def peaks_of_training(file: Path, folder: Path, ranks: int, *options: str) -> list[int]:
    """The most memory that each rank of a real training had."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("peak_of_dhhpc.py")), str(folder)]
    done = subprocess.run(
        [*(mpiexec(ranks) if ranks > 1 else []), *command, "train", str(file), *options],
        env=environment_for(ranks, synthetic.clean_environment()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [int(path.read_text()) for path in folder.iterdir()]
    assert len(found) == ranks
    return found


def estimate(file: Path, rehearsal: Rehearsal, ranks: int = 1, *overrides: str) -> tuple[int, int]:
    """Of rank 0: what is counted, and all of it."""
    experiment = read_experiment(file, overrides)
    counted = Counting(experiment, experiment.data.open(), zoo.create).of(ranks).first
    mpi = rehearsal.mpi_bytes or 0
    return counted, counted + rehearsal.process_bytes + (mpi if ranks > 1 else 0)


def assert_near(measured: int, counted: int, estimated: int) -> None:
    assert measured <= MEMORY_MARGIN * estimated
    assert abs(measured - estimated) <= COUNTED * counted + PROCESS


def test_memory_and_time_of_trainings(folder):
    """A U-Net, rehearsed with batches of 2, trained with 48 on one rank and 12 on each of two; a ResNet."""
    file = synthetic.write_experiment(
        folder / "unet.yml",
        folder / "discs",
        folder / "unet",
        network={"name": "unet", "channels": [8, 16]},
        optimizer={"name": "adam"},
        batch_size=48,
        epochs=2,
    )
    rehearsal = rehearsed(file, "--batch-size", 2)
    assert rehearsal.batch_size == 2
    assert rehearsal.threads == 1
    assert_near(rehearsal.peak_bytes, rehearsal.counted_bytes, rehearsal.predicted_bytes)
    assert rehearsal.peak_bytes <= rehearsal.process_bytes + rehearsal.counted_bytes
    assert rehearsal.mpi_bytes is not None
    assert rehearsal.mpi_bytes > MIB
    assert not list(folder.glob(".dhhpc-rehearsal-*"))
    (peak,) = peaks_of_training(file, folder / "peaks", 1)
    counted, estimated = estimate(file, rehearsal)
    # Of the order of 100 MiB, which a rehearsal that counted nothing would miss.
    assert counted > 3 * (COUNTED * counted + PROCESS) / 2
    assert_near(peak, counted, estimated)
    # A machine that others use is no stopwatch: it tells that nothing is forgotten or counted twice.
    experiment = read_experiment(file)
    work = work_of(Counting(experiment, experiment.data.open(), zoo.create), rehearsal, 0.0)
    batches = work.epochs * (rehearsal.pace * 24 + 6 * (rehearsal.validation_pace or 0))
    beside = work.epochs * work.epoch_seconds + rehearsal.once_seconds
    taken = json.loads((folder / "unet" / "run.json").read_text())["kpis"]["totm"]
    assert taken / 5 < batches + beside < 5 * taken
    shared = ("batch_size=24", "parallel={method: gradient, batch: divide}", "epochs=1")
    options = [word for change in shared for word in ("--set", change)]
    peaks = peaks_of_training(file, folder / "two", 2, *options, "--output", str(folder / "two-ranks"))
    counted, estimated = estimate(file, rehearsal, 2, *shared)
    assert_near(max(peaks), counted, estimated)

    # The process of another network is much the same. Adam has two more numbers a parameter, in copies too.
    file = synthetic.write_experiment(
        folder / "resnet.yml",
        folder / "stripes",
        folder / "resnet",
        network={"name": "resnet18", "width": 32},
        loss="categorical_cross_entropy",
        optimizer={"name": "adam"},
        batch_size=8,
        epochs=1,
        checkpoint={"select": "best"},
    )
    (peak,) = peaks_of_training(file, folder / "peaks-of-resnet", 1)
    counted, estimated = estimate(file, rehearsal)
    plain, _ = estimate(file, rehearsal, 1, "optimizer={name: sgd}")
    assert counted > plain + 2 * 4 * 2.7e6
    assert_near(peak, counted, estimated)
