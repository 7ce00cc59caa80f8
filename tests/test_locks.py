"""One process at a time in a folder, with real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.locks import sole_use

HOLDER = """
import sys, time
from pathlib import Path
from dhhpc.locks import sole_use
with sole_use(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""

# Adds one to the number in a file, slowly, many times.
COUNTER = """
import sys, time
from pathlib import Path
from dhhpc.locks import sole_use
folder = Path(sys.argv[1])
number = folder.with_name("number")
for _ in range(20):
    with sole_use(folder, lambda line: None, here=60):
        value = int(number.read_text())
        time.sleep(0.001)
        number.write_text(str(value + 1))
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_and_a_killed_process_gives_it_back(tmp_path):
    folder = tmp_path / "run"
    process = holder(folder)
    said: list[str] = []
    started = time.monotonic()
    with pytest.raises(DhhpcError) as caught, sole_use(folder, said.append, here=0.5):
        pass
    assert 0.5 < time.monotonic() - started < 5
    name = f"{socket.gethostname()}:{process.pid}"
    assert str(caught.value).startswith(f"{folder}: is in use by {name} (host:process); wait for")
    assert said == [f"{folder} is in use by {name}; waiting up to 0.5 s for it to end"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with sole_use(folder, said.append):
        assert (folder / ".lock").read_text() == f"{socket.gethostname()}:{os.getpid()}"
        (folder / "kept").touch()
    assert len(said) == 1
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_who_waits_goes_on_when_the_other_ends(tmp_path):
    process = holder(tmp_path / "run")

    def end(line: str) -> None:
        process.kill()
        process.wait()

    with sole_use(tmp_path / "run", end, here=30):
        pass
    assert not (tmp_path / "run").exists()  # it was empty


def test_no_two_hold_a_lock_whose_file_comes_and_goes(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "run")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "60"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DhhpcError, match=r"file/run/\.lock: cannot be written .* is a file"):
        sole_use(tmp_path / "file" / "run", print).__enter__()
