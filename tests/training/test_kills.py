"""A run that is killed again and again, at random moments and in every way, ends as one never killed.

DHHPC_KILLS sets how often: a few times here, a hundred times by hand. The ways of averaging are drawn, one
for every five kills; DHHPC_KILLED_METHOD sets one, DHHPC_KILLS_SEED what is drawn.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import synthetic
from tests.training.processes import FULL, final_state, selected_model, start, wait_for_the_end_of

KILLS = int(os.environ.get("DHHPC_KILLS", "2"))
SEED = int(os.environ.get("DHHPC_KILLS_SEED") or random.SystemRandom().randrange(10**6))
WAYS = ("all", "one rank", "asked", "while rank 0 writes", "while rank 1 writes", "truncated")
METHODS = {
    "gradient": {},
    "fixed": {"period": 4},
    "elastic": {"period": 4},
    "block-momentum": {"period": 4},
    "diloco": {},
    "two-level": {"near_period": 2, "period": 4, "ranks_per_group": 1},
}


def descendants(process: int) -> list[int]:
    """The processes below one, that are ranks."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            # The name in parentheses may hold spaces; what follows is the state and the parent.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process:
                below = descendants(int(entry.name))
                is_rank = b"dhhpc" in (entry / "cmdline").read_bytes() and not below
                found += below + ([int(entry.name)] if is_rank else [])
    return found


def events(run: Path) -> int:
    path = run / "events.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def kill(process: subprocess.Popen[str], run: Path, way: str, chance: random.Random) -> None:
    """Let the run come on a little, then end it in one of the ways; it may end by itself before."""
    before, end = events(run), time.monotonic() + 120
    while events(run) < before + 2 and process.poll() is None:
        assert time.monotonic() < end, "the run does not come on"
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.5))
    ranks = descendants(process.pid)
    victim = chance.choice(ranks) if ranks else 0
    if way.startswith("while"):
        writer = 0 if way == "while rank 0 writes" else 1
        victim = int(json.loads((run / "run.json").read_text())["processes"][writer].rpartition(":")[2])
        while process.poll() is None and not parts_being_written(run, writer):
            pass
    with contextlib.suppress(ProcessLookupError):
        if way == "asked":
            process.send_signal(signal.SIGTERM)
        elif way in ("one rank", "while rank 1 writes") and ranks:
            os.kill(victim, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for_the_end_of(run)
    if way == "truncated":
        newest = max((run / "checkpoints").glob("epoch-*.json"), default=None)
        if newest is not None:
            files = sorted(newest.parent.glob(f"{newest.stem}*"))
            path = chance.choice(files)
            os.truncate(path, chance.randrange(path.stat().st_size))


def parts_being_written(run: Path, rank: int) -> list[Path]:
    return list((run / "checkpoints").glob(f".epoch-*-rank-{rank:05d}.part.*.tmp"))


def left_unfinished(run: Path) -> bool:
    """Whether a checkpoint has been begun that does not exist."""
    parts = (run / "checkpoints").glob("*epoch-*-rank-*")
    names = {path.name.lstrip(".").partition("-rank-")[0] for path in parts}
    return not all((run / "checkpoints" / f"{name}.json").exists() for name in names)


@pytest.mark.timeout(120 + 60 * KILLS)
def test_every_resume_goes_on_and_the_result_is_that_of_a_run_never_killed(tmp_path):
    """Both ranks write a part of every checkpoint, in the background, whichever the method."""
    print(f"DHHPC_KILLS_SEED={SEED}")
    chance = random.Random(SEED)
    methods = chance.sample(sorted(METHODS), max(1, min(len(METHODS), KILLS // 5)))
    methods = os.environ.get("DHHPC_KILLED_METHOD", " ".join(methods)).split()
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 61, "validation": 6}, size=32)
    for number, method in enumerate(methods):
        kills = KILLS * (number + 1) // len(methods) - KILLS * number // len(methods)
        changes = FULL | {
            "epochs": 6 + 3 * kills,
            "parallel": METHODS[method] | {"method": method},
            "checkpoint": {"keep": 3, "select": "last", "shard_megabytes": 0.01},
        }
        run, reference = tmp_path / method, tmp_path / f"{method}-never-killed"
        file = synthetic.write_experiment(tmp_path / f"{method}.yml", shards, run, **changes)
        whole = synthetic.run_dhhpc("train", file, "--ranks", 2, "--output", reference)
        assert whole.returncode == 0, whole.stderr
        ways = [WAYS[turn % len(WAYS)] for turn in range(kills + len(WAYS))]
        writing = 0
        for way in chance.sample(ways, kills):
            kill(start("train", file, "--ranks", 2, "--resume"), run, way, chance)
            writing += left_unfinished(run)
        print(f"{method}: {kills} kills, {writing} of them while a checkpoint was being written")
        resumed = synthetic.run_dhhpc("train", file, "--ranks", 2, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        assert selected_model(run) == selected_model(reference)
        assert final_state(run) == final_state(reference)
        assert len(final_state(run)) == 2
