"""A run that is killed again and again, at random moments and in every way, ends as one never killed.

DHHPC_KILLS sets how often: a few times here, a hundred times by hand. DHHPC_KILLED_METHOD sets the way of
averaging.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import synthetic
from tests.training.processes import FULL, final_state, selected_model, start, wait_for_the_end_of

KILLS = int(os.environ.get("DHHPC_KILLS", "5"))
WAYS = ("all", "one rank", "asked", "while writing", "truncated")


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
    if way == "while writing":
        while process.poll() is None and not list((run / "checkpoints").glob(".epoch-*.tmp")):
            pass
    ranks = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        if way == "asked":
            process.send_signal(signal.SIGTERM)
        elif way == "one rank" and ranks:
            os.kill(chance.choice(ranks), signal.SIGKILL)
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


@pytest.mark.timeout(60 + 60 * KILLS)
def test_every_resume_goes_on_and_the_result_is_that_of_a_run_never_killed(tmp_path):
    """With DiLoCo, where each rank has parameters and optimizer state of its own."""
    method = {"method": os.environ.get("DHHPC_KILLED_METHOD", "diloco"), "batch": "multiply"}
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 61, "validation": 6}, size=32)
    epochs = 6 + 3 * KILLS
    changes = FULL | {"epochs": epochs, "parallel": method, "checkpoint": {"keep": 3, "select": "last"}}
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", **changes)
    whole = synthetic.run_dhhpc("train", file, "--ranks", 2, "--output", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    chance = random.Random(method["method"])
    run = tmp_path / "run"
    for turn in range(KILLS):
        kill(start("train", file, "--ranks", 2, "--resume"), run, WAYS[turn % len(WAYS)], chance)
    resumed = synthetic.run_dhhpc("train", file, "--ranks", 2, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert selected_model(run) == selected_model(tmp_path / "whole")
    assert final_state(run) == final_state(tmp_path / "whole")
