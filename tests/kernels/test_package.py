"""Backends and threads."""

import dhhpc_kernels
import pytest
from dhhpc_kernels.parallel import run_parallel, shares


def test_unknown_device_is_named():
    with pytest.raises(ValueError, match="'gpu'"):
        dhhpc_kernels.backend("gpu")


def test_public_names_are_documented():
    cpu = dhhpc_kernels.backend("cpu")
    assert len(cpu.__all__) == len(set(cpu.__all__)) > 30
    for name in cpu.__all__:
        assert getattr(cpu, name).__doc__, name


def test_set_threads_and_blas_that_keeps_to_one():
    import threadpoolctl

    dhhpc_kernels.backend("cpu")
    before = dhhpc_kernels.threads()
    try:
        dhhpc_kernels.set_threads(2)
        pools = [
            pool["num_threads"] for pool in threadpoolctl.threadpool_info() if "numpy" in pool["filepath"]
        ]
        assert pools
        assert set(pools) == {1}  # the kernels' own threads call it
        assert dhhpc_kernels.threads() == 2
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
