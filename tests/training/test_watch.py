"""Training with a rank that hangs or dies: who is named, and that the run goes on from its checkpoint."""

import json
import os
import re
import signal
import socket
import time

import numpy as np

from dhhpc.training.checkpoint import Checkpoint, CheckpointFolder, Part
from tests import synthetic
from tests.training.processes import (
    FULL,
    final_state,
    selected_model,
    start,
    wait_for_epochs,
    wait_for_the_end_of,
)

TIMEOUT = 3.0
LINE = (
    r"dhhpc: rank 1 on (\S+) \(pid (\d+)\) has given no sign of life for ([\d.]+) s: it was last heard of in "
)


def lines_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_stopped_rank_is_named_and_the_run_goes_on_as_one_unharmed(tmp_path):
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 41, "validation": 6}, size=32)
    changes = FULL | {"epochs": 400, "schedule": {"name": "constant"}, "watch": {"timeout": TIMEOUT}}
    file = synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", **changes)
    run = tmp_path / "run"
    process = start("train", file, "--ranks", 2)
    wait_for_epochs(run, 2, process)
    record = json.loads((run / "run.json").read_text())
    host, pid = record["processes"][1].rsplit(":", 1)
    os.kill(int(pid), signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.kill(int(pid), signal.SIGKILL)
    assert time.monotonic() - stopped < 1.2 * TIMEOUT + 10
    assert process.returncode == 75, errors
    wait_for_the_end_of(run)

    told = [line for line in errors.splitlines() if line.startswith("dhhpc: ")]
    (found,) = (re.match(LINE, line) for line in told)
    assert found is not None, told
    assert (found[1], found[2]) == (host, pid) == (socket.gethostname(), pid)
    # Wherever it was: a batch takes milliseconds.
    assert re.search(
        r"in ((the loading of )?epoch \d+, batch \d|validation, batch 1|the writing of a chec)", told[0]
    )
    (event,) = (line for line in lines_of(run) if line["event"] == "lost")
    assert (event["finding"], event["rank"], event["host"]) == ("silent", 1, host)
    assert f"dhhpc: {event['message']}; all ranks end, go on with --resume" == told[0]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "stopped"

    epochs = len(record["history"]) + 2
    command = ("train", file, "--ranks", 2, "--epochs", epochs, "--output")
    resumed = synthetic.run_dhhpc(*command, run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    # Without a watch: it changes nothing of what is computed.
    whole = synthetic.run_dhhpc(*command, tmp_path / "whole", "--set", "watch.timeout=0")
    assert whole.returncode == 0, whole.stderr
    assert final_state(run) == final_state(tmp_path / "whole")
    assert selected_model(run) == selected_model(tmp_path / "whole")


def test_a_checkpoint_that_takes_long_to_write_shows_progress(tmp_path):
    """At least once for every 16 MB, for the watch over ranks; and so does one that is read."""
    pieces: list[None] = []
    folder = CheckpointFolder(tmp_path, went_on=lambda: pieces.append(None))
    content = np.zeros(2**26, np.uint8)
    written = Checkpoint(1, 0, 1)
    digest = folder.write_part(written, 0, content, lambda: pieces.append(None))
    assert len(pieces) >= 4
    folder.check(written, Part(0, 0, content.size, content.size, digest))
    assert len(pieces) >= 8
