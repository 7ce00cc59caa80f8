"""The same results on processors with other vector units, which Numba is told to compile for."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import sys
import numpy as np
import dhhpc_kernels.target
if len(sys.argv) > 2:  # another vector unit than the target's
    dhhpc_kernels.target.vector_registers = lambda: tuple(map(int, sys.argv[2:]))
from dhhpc_kernels import cpu
from dhhpc_kernels.cache import cache_folder
from dhhpc_kernels.cpu.microkernel import LANES, ROWS
options = ((1, 1), (1, 1), (1, 1), 1)
generator = np.random.default_rng(1)
x, out = generator.standard_normal((2, 2, 9, 19, 17), np.float32)
weight = generator.standard_normal((9, 9, 3, 3), np.float32)
workspace = np.full(cpu.convolution_workspace(x.shape, weight.shape, *options), np.nan, np.float32)
forward, data, weights = np.empty_like(x), np.empty_like(x), np.empty_like(weight)
cpu.convolution_forward(x, weight, None, forward, workspace, *options)
cpu.convolution_backward_data(out, weight, data, workspace, *options)
cpu.convolution_backward_weights(x, out, weights, None, workspace, *options)
np.savez(sys.argv[1], forward=forward, data=data, weights=weights, block=[LANES, ROWS])
print(cache_folder())
"""
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")


def convolve(result, *arguments: str, **environment: str) -> tuple[dict[str, np.ndarray], str]:
    """The three results with LANES and ROWS, and the cache folder."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(result), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    with np.load(result) as arrays:
        return dict(arrays), process.stdout.strip()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], str]:
    return convolve(tmp_path_factory.mktemp("host") / "host.npz")


@on_x86
@pytest.mark.parametrize(
    ("cpu", "lanes", "rows"), [("haswell", 8, 4), ("nehalem", 4, 4)], ids=["AVX2", "SSE"]
)
def test_other_processors_agree_with_this_one(cpu, lanes, rows, host, tmp_path):
    """No features beyond those of the name, as Numba otherwise adds the host's."""
    expected, folder = host
    results, other_folder = convolve(tmp_path / "r.npz", NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    assert results.pop("block").tolist() == [lanes, rows]
    assert other_folder != folder
    agree(results, expected)


def test_four_lanes_in_32_registers_as_on_arm(host, tmp_path):
    expected, _ = host
    results, _ = convolve(tmp_path / "r.npz", "4", "32", DHHPC_CACHE_DIR=str(tmp_path))
    assert results.pop("block").tolist() == [4, 8]
    agree(results, expected)


def agree(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in results.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5 * np.abs(expected[name]).max(), rtol=0)


@on_x86
@pytest.mark.parametrize(
    ("environment", "registers"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, "(4, 16)"),
        ({"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": ""}, "(16, 32)"),
        ({"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+avx"}, "(8, 16)"),
    ],
)
def test_the_width_follows_name_and_features(environment, registers):
    code = "from dhhpc_kernels.target import vector_registers; print(vector_registers())"
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    assert result.stdout.strip() == registers, result.stderr
