"""What the tests of batch jobs share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dhhpc.batch import JobRequest
from dhhpc.batch.processes import wait_until
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.batch.virtual_cluster.accounting import PACKAGES


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Job records and site configs of a user of this test's own, but the compiled kernels of this one."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return folder


@pytest.fixture
def request_of(tmp_path: Path):
    """Makes job requests: `request_of(nodes=2)`."""

    def make(**changes: object) -> JobRequest:
        values = {
            "arguments": ("site", "list"),
            "name": "job",
            "folder": str(tmp_path),
            "seconds": 60,
            "kind": "evaluate",  # the launcher and the command, nothing else
        }
        return JobRequest(**(values | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def accounts(cluster: VirtualCluster) -> Callable[..., dict[str, list[str]]]:
    """Asks sacct: `accounts([job], "State,Start", 5)` gives the columns of 5 jobs or tasks by their id."""
    if not cluster.accounting:
        pytest.skip(f"no accounting on this machine: install {PACKAGES}")
    rows: dict[str, list[str]] = {}

    def ask(jobs: list[str], columns: str, count: int) -> dict[str, list[str]]:
        command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}"]

        def all_over() -> bool:
            # slurmctld tells its accounts in batches, of jobs that are over too.
            rows.clear()
            for line in cluster.run(*command, f"--format=JobID,End,{columns}").splitlines():
                job, end, *values = line.split("|")
                if end != "Unknown":
                    rows[job] = values
            return len(rows) == count

        assert wait_until(all_over, 30, poll=0.2), rows
        return dict(rows)

    return ask


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """qsub, qstat, qdel and qrerun of a stand-in for PBS on PATH; the folder of its jobs."""
    programs, folder = tmp_path / "pbs-bin", tmp_path / "pbs"
    programs.mkdir()
    folder.mkdir()
    source = Path(__file__).with_name("pbs_stand_in.py").read_text()
    for name in ("qsub", "qstat", "qdel", "qrerun"):
        (programs / name).write_text(f"#!{sys.executable} -SE\n{source}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PBS_STAND_IN", str(folder))
    yield folder
    if (folder / "jobs.json").exists():
        known = json.loads((folder / "jobs.json").read_text())
        subprocess.run(["qdel", *known], stderr=subprocess.DEVNULL, check=False)

        def over() -> bool:
            states = json.loads((folder / "jobs.json").read_text()).values()
            return all(job["job_state"] == "F" or "at_once" in job for job in states)

        assert wait_until(over, 30), (folder / "keepers").read_text()
