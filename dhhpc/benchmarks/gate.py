"""Whether `dhhpc scale report --compare` catches a build that has become slower, and lets others pass:

    python -m dhhpc.benchmarks.gate [--studies 20] [--slower 0.2]

Measures the same small study again and again, in turn with this build and with a copy of it that sleeps after
every batch for a share of the batch's own time. Compares every study of this build with the one of it before,
and with the slowed one beside it. Prints how many of each were found slower, and for how many rank counts of
two unchanged studies the intervals of totm have something in common.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import dhhpc
from dhhpc.benchmarks.squares import write_experiment, write_shards
from dhhpc.scaling.studies.results import read_results

BUILD = Path(dhhpc.__file__).resolve().parents[1]
IMAGES, SIZE = 256, 64
# Put at the end of the model's module in the copy.
SLEEP = """

def slowed(self, *arguments, **options):
    import time

    started = time.perf_counter()
    found = trained(self, *arguments, **options)
    time.sleep({share} * (time.perf_counter() - started))
    return found


trained, Model.train_batch = Model.train_batch, slowed
"""


def slowed_build(folder: Path, share: float) -> Path:
    """A folder with a copy of the package that sleeps after each batch."""
    shutil.copytree(BUILD / "dhhpc", folder / "dhhpc", ignore=shutil.ignore_patterns("__pycache__"))
    model = folder / "dhhpc" / "eddl" / "model.py"
    model.write_text(model.read_text(encoding="utf-8") + SLEEP.format(share=share), encoding="utf-8")
    return folder


def call(*words: str | Path, build: Path = BUILD) -> subprocess.CompletedProcess[str]:
    """`dhhpc` of a build with these words, all of whose paths are absolute."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(build), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.run(
        [sys.executable, "-m", "dhhpc", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=build,
        check=False,
    )
    if process.returncode and not process.stdout:
        sys.exit(process.stderr)
    return process


def write_study(folder: Path) -> Path:
    """A study of some seconds: a small U-Net on one and two ranks, three times each."""
    write_shards(folder / "shards", IMAGES, SIZE)
    parallel = {"method": "fixed", "period": 8}
    experiment = folder / "experiment.yml"
    write_experiment(experiment, [8, 16, 32], batch_size=16, epochs=4, threads=1, parallel=parallel)
    study = {"name": "gate", "experiment": "experiment.yml", "ranks": [1, 2], "repeats": 3}
    (folder / "study.yml").write_text(yaml.safe_dump(study))
    return folder / "study.yml"


def compared(before: Path, after: Path) -> tuple[bool, float]:
    """Whether the exit code of `--compare` says that it is slower, and the ratio of times."""
    process = call("scale", "report", after, "--compare", before, "--json")
    return process.returncode == 1, json.loads(process.stdout)["overall"]["ratio"]


def agreeing(before: Path, after: Path) -> list[bool]:
    """For each rank count, whether the intervals of totm of two studies overlap."""
    one, other = ([row.totm_interval for row in read_results(each).rows] for each in (before, after))
    return [a.low <= b.high and b.low <= a.high for a, b in zip(one, other, strict=True) if a and b]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="compared of each kind")
    parser.add_argument("--slower", type=float, default=0.2, help="the share of a batch's time that is slept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, slow = write_study(folder), slowed_build(folder / "slowed", options.slower)
        verdicts: dict[str, list[tuple[bool, float]]] = {"unchanged": [], "slowed": []}
        agreed: list[bool] = []
        before = folder / "build-0"
        call("scale", "run", study, "--output", before)
        for number in range(1, options.studies + 1):
            build, other = folder / f"build-{number}", folder / f"slowed-{number}"
            call("scale", "run", study, "--output", other, build=slow)
            call("scale", "run", study, "--output", build)
            verdicts["unchanged"].append(compared(before, build))
            verdicts["slowed"].append(compared(build, other))
            agreed += agreeing(before, build)
            before = build
            for kind, each in verdicts.items():
                slower, ratio = each[-1]
                print(
                    f"{number} {kind}: {ratio:.3f} times as long, {'slower' if slower else 'passes'}",
                    flush=True,
                )
    for kind, each in verdicts.items():
        middle = statistics.median(ratio for _, ratio in each)
        count = sum(slower for slower, _ in each)
        print(f"{kind}: {count} of {len(each)} found slower; {middle:.3f} times as long in the median")
    print(f"unchanged: intervals of totm overlap for {sum(agreed)} of {len(agreed)} rank counts")


if __name__ == "__main__":
    main()
