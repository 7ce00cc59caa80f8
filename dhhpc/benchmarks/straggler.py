"""What one slow rank costs, with batches divided equally and by measured speed:

    python -m dhhpc.benchmarks.straggler [--ranks 4] [--rounds 3]

Trains a small U-Net on generated images with one thread a rank and `fixed` averaging, and stops the last rank
half of the time (SIGSTOP and SIGCONT every 20 ms). Prints the seconds of an epoch over those of the ideal
split, by the speeds that the ranks had in that epoch: the samples over the sum of their samples a second. In
the median over epochs after the ranks have had time to notice, and over rounds, equal and measured in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dhhpc.benchmarks.command import start
from dhhpc.benchmarks.squares import write_experiment, write_shards

IMAGES, SIZE = 512, 64
# Epochs before the rank is slowed, those that the ranks have to notice it, and those that count.
FREE, NOTICE, COUNTED = 5, 4, 8
TURN_SECONDS = 0.02


@contextlib.contextmanager
def slowed(process: int, running: float = TURN_SECONDS) -> Iterator[None]:
    """While inside, a process runs for so many seconds between stops of `TURN_SECONDS`."""
    over = threading.Event()

    def turns() -> None:
        with contextlib.suppress(ProcessLookupError):
            while not over.is_set():
                for number, seconds in ((signal.SIGSTOP, TURN_SECONDS), (signal.SIGCONT, running)):
                    os.kill(process, number)
                    time.sleep(seconds)

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def history_of(run: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return list(json.loads((run / "run.json").read_text())["history"])
    return []


def wait_for(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    while len(history_of(run)) < epochs:
        if process.poll() is not None:
            sys.exit(process.communicate()[1])
        time.sleep(0.1)


def over_ideal(epoch: dict[str, Any]) -> float:
    """The seconds of an epoch over those of the ideal split among ranks of its paces."""
    known = [pace for pace in epoch["paces"] if pace["seconds"]]
    ideal = sum(pace["samples"] for pace in known) / sum(1 / pace["seconds"] for pace in known)
    return float(epoch["seconds"] / ideal)


def measure(experiment: Path, split: str, ranks: int, run: Path) -> float:
    """The median of `over_ideal` over the epochs that count."""
    setting = f"parallel.split={split}"
    process = start("train", experiment, "--ranks", ranks, "--set", setting, "--output", run)
    wait_for(run, FREE, process)
    slow = json.loads((run / "run.json").read_text())["processes"][-1]
    with slowed(int(slow.rpartition(":")[2])):
        begun = len(history_of(run))
        wait_for(run, begun + NOTICE + COUNTED, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return statistics.median(over_ideal(epoch) for epoch in history_of(run)[begun + NOTICE :][:COUNTED])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {"equal": [], "measured": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", IMAGES, SIZE)
        experiment = folder / "experiment.yml"
        parallel = {"method": "fixed", "period": 8}
        write_experiment(experiment, [8, 16, 32], batch_size=16, epochs=10**6, threads=1, parallel=parallel)
        for number in range(options.rounds):
            for split, found in ratios.items():
                found.append(measure(experiment, split, options.ranks, folder / f"{split}-{number}"))
                print(f"split {split}: an epoch takes {found[-1]:.2f} of the ideal split", flush=True)
    for split, found in ratios.items():
        print(f"split {split}: {statistics.median(found):.2f} in the median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
