"""Whether every way of averaging reaches what one rank reaches, and for how many bytes:

    python -m dhhpc.benchmarks.methods EXPERIMENT FOLDER [--ranks 4] [--seeds 1] [--methods fixed diloco]
        [--set optimizer.learning_rate=0.002] [--set parallel.period=64]

Trains an experiment on one rank, then with each method on several ranks, and evaluates all on the test
split. Prints the metric, the distance to one rank, the seconds, and the bytes that a rank sent, beside those
of averaging gradients in as many batches. Where ranks step alone, each has whole batches (`batch: multiply`):
parts of them are too small to step by. Run folders and logs stay in FOLDER; called again, it trains only what
is missing there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dhhpc.batch.command import run_dhhpc
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json

SINGLE = "one rank"
DIVIDE, MULTIPLY = {"batch": "divide"}, {"batch": "multiply"}
METHODS: dict[str, dict[str, Any]] = {
    "gradient": DIVIDE,
    "fixed": MULTIPLY | {"period": 4},
    "increasing": MULTIPLY | {"longest": 16},
    "sawtooth": MULTIPLY | {"longest": 8},
    "negative-sawtooth": MULTIPLY | {"longest": 8},
    "auto-time": MULTIPLY | {"longest": 16},
    "limit-overhead": MULTIPLY | {"longest": 16},
    "local-sgd": MULTIPLY | {"period": 4, "switch_epoch": 2, "warmup_epochs": 2},
    "elastic": MULTIPLY | {"period": 4},
    "block-momentum": DIVIDE | {"period": 4},
    "two-level": MULTIPLY | {"near_period": 2, "period": 8, "ranks_per_group": 2},
    "diloco": MULTIPLY | {"period": 56},
}


@dataclass(frozen=True)
class Outcome:
    """One trained run: its test metric, seconds of training, and the bytes that a rank sent to learn, and
    in how many batches."""

    score: float
    seconds: float
    sent: int
    batches: int


def outcome(
    experiment: Path, folder: Path, method: str, ranks: int, seed: int, metric: str, changes: Sequence[str]
) -> Outcome:
    """Train and evaluate one run, or read what an earlier call has left."""
    name = f"{method.replace(' ', '-')}-seed-{seed}"
    run = folder / name
    if not (run / "run.json").is_file() or read_json(run / "run.json")["status"] != "finished":
        settings = [f"seed={seed}", "threads=1"]
        if method == SINGLE:
            settings += [change for change in changes if not change.startswith("parallel")]
        else:
            parallel = {"method": method} | METHODS[method]
            settings += [f"parallel={json.dumps(parallel)}", *changes]
        arguments = ["train", str(experiment), "--output", str(run), "--resume"]
        arguments += ["--ranks", "1" if method == SINGLE else str(ranks)]
        arguments += [word for setting in settings for word in ("--set", setting)]
        run_dhhpc(arguments, folder / f"{name}.log")
    if "test" not in read_json(run / "metrics.json"):
        run_dhhpc(["evaluate", str(run), "--split", "test"], folder / f"{name}-test.log")
    content = read_json(run / "run.json")
    # The bytes of validation are not among those of an epoch.
    sent, batches = (sum(epoch[name] for epoch in content["history"]) for name in ("bytes_sent", "batches"))
    return Outcome(read_json(run / "metrics.json")["test"][metric], content["kpis"]["totm"], sent, batches)


def table_of(outcomes: dict[str, list[Outcome]], metric: str, ranks: int) -> Table:
    """A row a method: means over the seeds."""
    table = Table(title=f"Test {metric} on {ranks} ranks, mean over {len(outcomes[SINGLE])} seeds")
    for column in ("method", metric, "to one rank", "of each seed", "seconds", "MB a rank", "of gradient's"):
        table.add_column(column, justify="left" if column == "method" else "right")

    def mean(method: str, value: str) -> float:
        return statistics.mean(getattr(each, value) for each in outcomes[method])

    for method, runs in outcomes.items():
        score, sent = mean(method, "score"), mean(method, "sent")
        share = ""
        if method != SINGLE and "gradient" in outcomes:
            full = mean("gradient", "sent") / mean("gradient", "batches") * mean(method, "batches")
            share = f"1/{full / sent:.1f}"
        table.add_row(
            method,
            f"{score:.4f}",
            f"{score - mean(SINGLE, 'score'):+.4f}",
            " ".join(f"{run.score:.3f}" for run in runs),
            f"{mean(method, 'seconds'):.0f}",
            f"{sent / 1e6:.2f}",
            share,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--metric", default="dice", help="as `dhhpc evaluate` calls it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `dhhpc train`")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    outcomes: dict[str, list[Outcome]] = {}
    try:
        for method in (SINGLE, *options.methods):
            outcomes[method] = [
                outcome(
                    options.experiment,
                    options.folder,
                    method,
                    options.ranks,
                    seed,
                    options.metric,
                    options.set,
                )
                for seed in range(1, options.seeds + 1)
            ]
            print(f"{method}: {' '.join(f'{each.score:.4f}' for each in outcomes[method])}", flush=True)
    except DhhpcError as error:
        print(f"dhhpc: {error}", file=sys.stderr)
        return 1
    Console(width=110).print(table_of(outcomes, options.metric, options.ranks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
