"""What ranks gain and cost on this machine, U-Net of the kernels' benchmark on generated images:

    python -m dhhpc.benchmarks.ranks [--method fixed] [--pairs 5]

Runs one rank with one thread and two ranks with one thread each, in turn, with batches of 2 a rank. Prints
the efficiency, images a second of two ranks over twice those of one, in the median of the pairs, and the peak
memory of a rank over that of the run on one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from dhhpc.benchmarks.command import start
from dhhpc.benchmarks.squares import write_experiment, write_shards

IMAGES, SIZE, EPOCHS = 32, 256, 2


def peak_memory(run: Path) -> int:
    """The largest resident size so far, in bytes, of any process that has this folder in its command line."""
    largest = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(run).encode() not in (process / "cmdline").read_bytes():
                continue
            (line,) = [line for line in (process / "status").read_text().splitlines() if "VmHWM" in line]
        except (OSError, ValueError):
            continue
        largest = max(largest, int(line.split()[1]) * 1024)
    return largest


def measure(experiment: Path, ranks: int, run: Path) -> tuple[float, int]:
    """Images a second over all epochs, and the peak memory of a rank in bytes."""
    process = start("train", experiment, "--ranks", ranks, "--threads", 1, "--output", run)
    peaks = [0]

    def watch() -> None:
        while process.poll() is None:
            peaks.append(peak_memory(run))
            time.sleep(2)  # it takes the cores of the ranks

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(errors)
    history = json.loads((run / "run.json").read_text())["history"]
    return len(history) * IMAGES / sum(epoch["seconds"] for epoch in history), max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="fixed")
    parser.add_argument("--period", type=int, default=8, help="of all methods but gradient")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    period = {} if options.method == "gradient" else {"period": options.period}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", IMAGES, SIZE)
        experiment = folder / "experiment.yml"
        write_experiment(
            experiment,
            [32, 64, 128, 256, 512],
            optimizer={"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
            batch_size=2,
            epochs=EPOCHS,
            parallel={"method": options.method, **period},
            checkpoint={"every_epochs": EPOCHS},
        )
        efficiencies, memories = [], []
        for pair in range(options.pairs):
            (one, alone), (two, each) = (
                measure(experiment, ranks, folder / f"run-{ranks}-{pair}") for ranks in (1, 2)
            )
            efficiencies.append(two / (2 * one))
            memories.append(each / alone)
            figures = f"{one:.2f} and {two:.2f} images/s, {alone / 1e6:.0f} and {each / 1e6:.0f} MB"
            print(f"1 and 2 ranks: {figures}; efficiency {efficiencies[-1]:.3f}", flush=True)
    print(f"median of {options.pairs} pairs: efficiency {statistics.median(efficiencies):.3f}")
    print(f"peak memory of a rank: {statistics.median(memories):.2f} of that of one rank alone")


if __name__ == "__main__":
    main()
