"""What the tests of batch jobs share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dhhpc.batch import JobRequest


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
