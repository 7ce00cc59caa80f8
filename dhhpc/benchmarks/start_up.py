"""How long a user waits for the command line on a login node:

    python -m dhhpc.benchmarks.start_up [--rounds 11]

Times `dhhpc --help`, and `dhhpc submit train --dry-run` for a site of SLURM, in turn; prints the median and
the extremes of each in seconds, after a round that fills the caches. Python must be free to write its
bytecode: with PYTHONDONTWRITEBYTECODE it compiles what is newer than its caches each time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUBMISSION = ["submit", "train", "experiment.yml", "--site", "slurm-mpich", "--threads", "8"]
COMMANDS = {
    "dhhpc --help": ["--help"],
    "dhhpc submit train --dry-run": [*SUBMISSION, "--time", "10", "--dry-run"],
}


def seconds_of(arguments: list[str], folder: Path) -> float:
    """Of one process from its start to its end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dhhpc", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "experiment.yml").write_text("name: dry\n", encoding="utf-8")
        times: dict[str, list[float]] = {command: [] for command in COMMANDS}
        for number in range(rounds + 1):
            for command, arguments in COMMANDS.items():
                taken = seconds_of(arguments, folder)
                if number:
                    times[command].append(taken)
    for command, taken_all in times.items():
        print(
            f"{command:30} {statistics.median(taken_all):.2f} s in the median of {rounds} "
            f"({min(taken_all):.2f} to {max(taken_all):.2f})"
        )


if __name__ == "__main__":
    main()
