"""Rules for all tests (when a skip is a failure), and what several folders of them share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from dhhpc.batch.virtual_cluster import VirtualCluster, accounting, missing_programs
from tests import synthetic

GUARDED = ("mpi", "slurm", "shellcheck", "real_data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With DHHPC_NO_SKIPS set, a skipped test with one of the GUARDED markers fails, with the skip's reason.

    Tests of real images may still be skipped where DHHPC_REAL_DATA names no folder of them.
    """
    report = yield
    markers = [name for name in GUARDED if item.get_closest_marker(name)]
    if "real_data" in markers and not os.environ.get("DHHPC_REAL_DATA"):
        markers = []
    if os.environ.get("DHHPC_NO_SKIPS") and report.skipped and markers and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {reason} (marked {', '.join(markers)}; no skips are allowed)"
    return report


@pytest.hookimpl
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("shellcheck") and shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine: install it")


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segmentation shards whose counts leave uneven tails: 21 training, 6 validation, 5 test images."""
    return synthetic.write_discs(
        tmp_path_factory.mktemp("discs"), {"training": 21, "validation": 6, "test": 5}
    )


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[VirtualCluster]:
    """One real SLURM of four nodes for the whole session, with accounting where that is installed."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine: install slurm-wlm and munge")
    with VirtualCluster(accounting=not accounting.missing_programs()) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualCluster]:
    """The session's SLURM, with this test's environment set to it; no job of the test outlives it."""
    for name in [name for name in os.environ if name not in running_cluster.command_environment()]:
        monkeypatch.delenv(name)
    for name, value in running_cluster.command_environment().items():
        monkeypatch.setenv(name, value)
    yield running_cluster
    if running_cluster.run("squeue", "--noheader").strip():
        running_cluster.end_jobs()
