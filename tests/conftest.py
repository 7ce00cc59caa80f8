"""Rules for all tests: which tests may be skipped, and when a skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

GUARDED = ("mpi", "slurm", "real_data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With DHHPC_NO_SKIPS set, a skipped test of MPI, SLURM or real images fails, with the skip's reason.

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
