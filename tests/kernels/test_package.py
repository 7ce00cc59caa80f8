"""Backends, threads, and the folder of the compiled kernels."""

import os
import subprocess
import sys

import dhhpc_kernels
import numpy as np
import pytest
from dhhpc_kernels.parallel import run_parallel, shares

PROGRAM = """
import numpy, dhhpc_kernels
x = numpy.array([-1, 2], 'f')
dhhpc_kernels.backend('cpu').relu_forward(x, x)
print(x.tolist())
"""


def run(environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_unknown_device_is_named():
    with pytest.raises(ValueError, match="'gpu'"):
        dhhpc_kernels.backend("gpu")


def test_public_names_are_documented():
    cpu = dhhpc_kernels.backend("cpu")
    assert len(cpu.__all__) == len(set(cpu.__all__)) > 30
    for name in cpu.__all__:
        assert getattr(cpu, name).__doc__, name


def test_compiled_kernels_are_kept_by_cpu_and_version(tmp_path):
    first = run({"DHHPC_CACHE_DIR": str(tmp_path)})
    assert (first.stdout, first.stderr) == ("[0.0, 2.0]\n", "")
    (folder,) = (tmp_path / "kernels").iterdir()
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbi")}
    assert written
    assert run({"DHHPC_CACHE_DIR": str(tmp_path)}).stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nbi")} == written


def test_xdg_cache_home_is_used(tmp_path):
    run({"XDG_CACHE_HOME": str(tmp_path), "DHHPC_CACHE_DIR": ""})
    assert list((tmp_path / "dhhpc" / "kernels").rglob("*.nbi"))


def test_folder_that_cannot_be_made_is_said_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run({"DHHPC_CACHE_DIR": str(tmp_path / "file")})
    assert result.stdout == "[0.0, 2.0]\n"
    (line,) = result.stderr.splitlines()
    assert "DHHPC_CACHE_DIR" in line
    assert str(tmp_path / "file") in line


def test_set_threads_reaches_blas():
    import threadpoolctl

    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(1)
        np.ones((2, 2)) @ np.ones((2, 2))
        counts = [
            pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"
        ]
        assert dhhpc_kernels.threads() == 1
        assert counts
        assert set(counts) == {1}
        with pytest.raises(ValueError, match="at least 1"):
            dhhpc_kernels.set_threads(0)
    finally:
        dhhpc_kernels.set_threads(before)


def test_shares_cover_everything_once():
    for count in range(12):
        for parts in range(1, 6):
            ranges = shares(count, parts)
            assert [i for first, last in ranges for i in range(first, last)] == list(range(count))
            assert len(ranges) == max(1, min(parts, count))


def test_an_error_in_a_thread_surfaces():
    def fail(number: int) -> None:
        if number:
            raise KeyError(number)

    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(2)
        with pytest.raises(KeyError):
            run_parallel(fail, [(0,), (1,)])
    finally:
        dhhpc_kernels.set_threads(before)
