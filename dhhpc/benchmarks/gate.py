"""Whether `dhhpc scale report --compare` catches a build that has become slower, and lets others pass:

    python -m dhhpc.benchmarks.gate [--rounds 20] [--slower 0.3]

A round measures the same small study three times in turn, a repeat of each at a time: twice with this
build, and with a copy of it that sleeps after every batch for a share of the batch's own time. Prints how
many of the unchanged builds and of the slowed ones were found slower, and for how many rank counts of
unchanged ones the intervals of totm overlap.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import yaml

from dhhpc.benchmarks.command import BUILD, call
from dhhpc.benchmarks.squares import write_experiment, write_shards
from dhhpc.scaling.studies.results import read_results

IMAGES, SIZE, REPEATS = 256, 64, 5
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


def write_study(folder: Path) -> Path:
    """A small U-Net on two ranks, some seconds a run. Loading kernels is no part of totm: no warm-up."""
    write_shards(folder / "shards", IMAGES, SIZE)
    parallel = {"method": "fixed", "period": 8}
    experiment = folder / "experiment.yml"
    write_experiment(experiment, [8, 16, 32], batch_size=16, epochs=10, threads=1, parallel=parallel)
    study = {
        "name": "gate",
        "experiment": "experiment.yml",
        "ranks": [2],
        "repeats": REPEATS,
        "warm_up": False,
    }
    (folder / "study.yml").write_text(yaml.safe_dump(study))
    return folder / "study.yml"


def compared(before: Path, after: Path) -> tuple[bool, float]:
    """Whether the exit code of `--compare` says that it is slower, and the ratio of times."""
    process = call("scale", "report", after, "--compare", before, "--json", codes=(0, 1))
    return process.returncode == 1, json.loads(process.stdout)["overall"]["ratio"]


def agreeing(before: Path, after: Path) -> list[bool]:
    """For each rank count, whether the intervals of totm of two studies overlap."""
    one, other = ([row.totm_interval for row in read_results(each).rows] for each in (before, after))
    return [a.low <= b.high and b.low <= a.high for a, b in zip(one, other, strict=True) if a and b]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--slower", type=float, default=0.3, help="the share of a batch's time that is slept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, slow = write_study(folder), slowed_build(folder / "slowed", options.slower)
        builds = {"before": BUILD, "slowed": slow, "unchanged": BUILD}
        verdicts: dict[str, list[tuple[bool, float]]] = {"unchanged": [], "slowed": []}
        agreed: list[bool] = []
        for number in range(1, options.rounds + 1):
            measured = {kind: folder / f"{kind}-{number}" for kind in builds}
            for repeats in range(1, REPEATS + 1):
                for kind, build in builds.items():
                    words = "--output", measured[kind], "--repeats", repeats, "--no-report"
                    call("scale", "run", study, *words, build=build)
            for kind, each in verdicts.items():
                each.append(compared(measured["before"], measured[kind]))
                slower, ratio = each[-1]
                told = "slower" if slower else "passes"
                print(f"{number} {kind}: {ratio:.3f} times as long, {told}", flush=True)
            agreed += agreeing(measured["before"], measured["unchanged"])
    for kind, each in verdicts.items():
        middle = statistics.median(ratio for _, ratio in each)
        count = sum(slower for slower, _ in each)
        print(f"{kind}: {count} of {len(each)} found slower; {middle:.3f} times as long in the median")
    print(f"unchanged: intervals of totm overlap for {sum(agreed)} of {len(agreed)} rank counts")


if __name__ == "__main__":
    main()
