"""How far `dhhpc scale simulate` is off on this machine, for trainings that it was not calibrated on:

    python -m dhhpc.benchmarks.forecasts [--epochs 6] [--output FOLDER]

Describes this machine by `dhhpc scale probe`, trains a U-Net on generated images on one and on two ranks, and
forecasts from these two runs the epochs of others: other averaging periods and methods, and three and four
ranks. Prints the measured and the forecast seconds of each, and the median error. On an idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from dhhpc.benchmarks.command import call
from dhhpc.benchmarks.squares import write_experiment, write_shards

IMAGES, SIZE = 512, 64
FIXED = {"method": "fixed", "period": 8}
# By name: the ranks, and how they learn together.
CALIBRATED: dict[str, tuple[int, dict[str, Any]]] = {"one": (1, FIXED), "two": (2, FIXED)}
FORECAST: dict[str, tuple[int, dict[str, Any]]] = {
    "two-period-1": (2, FIXED | {"period": 1}),
    "two-period-16": (2, FIXED | {"period": 16}),
    "two-gradient": (2, {"method": "gradient"}),
    "two-elastic": (2, {"method": "elastic", "period": 4}),
    "three": (3, FIXED),
    "four": (4, FIXED),
    "four-levels": (4, {"method": "two-level", "near_period": 2, "period": 8, "ranks_per_group": 2}),
}


def measure(folder: Path, epochs: int) -> None:
    """Leave in `folder` what was measured, and print how far the forecasts are off."""
    machine = folder / "here.yml"
    call(
        "scale",
        "probe",
        "--ranks",
        2,
        "--path",
        folder,
        "--output",
        folder / "probe.json",
        "--machine",
        machine,
    )
    write_shards(folder / "shards", IMAGES, SIZE)
    for name, (ranks, parallel) in (CALIBRATED | FORECAST).items():
        experiment = folder / f"{name}.yml"
        write_experiment(
            experiment,
            [16, 32, 64],
            batch_size=16,
            epochs=epochs,
            threads=1,
            trace=1000,
            parallel=parallel,
        )
        call("train", experiment, "--ranks", ranks, "--output", folder / name)
        print(f"trained: {name}", flush=True)
    against = [word for name in FORECAST for word in ("--against", folder / name)]
    runs = [folder / name for name in CALIBRATED]
    call(
        "scale",
        "simulate",
        *runs,
        "--machine",
        machine,
        *against,
        "--output",
        folder / "validation",
        shown=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--epochs", type=int, default=6, help="of each training; the first one does not count"
    )
    parser.add_argument("--output", type=Path, help="keep what was measured in this new folder")
    options = parser.parse_args()
    if options.output is not None:
        options.output.mkdir(parents=True)
        measure(options.output.resolve(), options.epochs)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.epochs)


if __name__ == "__main__":
    main()
