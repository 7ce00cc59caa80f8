"""The same results on processors with other vector units, which Numba is told to compile for."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from dhhpc_kernels.target import vector_registers

PROGRAM = """
import os
import sys
import numpy as np
import dhhpc_kernels.target
if len(sys.argv) > 2:  # another vector unit than the target's
    dhhpc_kernels.target.vector_registers = lambda: tuple(map(int, sys.argv[2:]))
from dhhpc_kernels import cpu
from dhhpc_kernels.cache import cache_folder
from dhhpc_kernels.cpu.matrix_product import matrix_product, matrix_product_workspace
from dhhpc_kernels.cpu.microkernel import LANES, ROWS, VECTORS
generator = np.random.default_rng(1)
results = {"block": [LANES, ROWS, VECTORS]}
# By each algorithm:
for taps, stride, channels, kernels, groups, height, width, setting in (
    (3, 1, 60, 70, 1, 19, 17, "auto"),
    (3, 2, 19, 21, 1, 19, 17, "direct"),
    (3, 1, 19, 19, 19, 19, 17, "auto"),
    (3, 2, 19, 19, 19, 36, 40, "auto"),
    (3, 2, 19, 19, 19, 6, 6, "auto"),
    (3, 2, 18, 21, 1, 19, 17, "winograd"),
    (3, 2, 18, 21, 1, 19, 17, "product"),
    (3, 2, 34, 38, 2, 28, 30, "product"),
    (1, 1, 37, 45, 1, 19, 17, "auto"),
    (1, 2, 37, 45, 1, 19, 17, "auto"),
    (1, 2, 130, 60, 1, 64, 64, "auto"),
):
    os.environ["DHHPC_CONVOLUTION"] = setting
    padding = taps // 2
    options = ((stride, stride), (padding, padding), (1, 1), groups)
    x = generator.standard_normal((2, channels, height, width), np.float32)
    weight = generator.standard_normal((kernels, channels // groups, taps, taps), np.float32)
    size = -(-height // stride), -(-width // stride)
    out = generator.standard_normal((2, kernels, *size), np.float32)
    names = cpu.explain_convolution(x.shape, weight.shape, *options)
    assert ("depthwise" in names.values()) == (groups == channels), names
    forced = {"direct": {"direct"}, "product": {"implicit product"}}
    assert set(names.values()) == forced.get(setting, set(names.values())), names
    assert ("winograd 4x4 at stride 2" in names.values()) == (setting == "winograd"), names
    assert ("pointwise product" in names.values()) == (taps == 1), names
    workspace = np.full(cpu.convolution_workspace(x.shape, weight.shape, *options), np.nan, np.float32)
    forward, data, weights = np.empty_like(out), np.empty_like(x), np.empty_like(weight)
    cpu.convolution_forward(x, weight, None, forward, workspace, *options)
    cpu.convolution_backward_data(out, weight, data, workspace, *options)
    cpu.convolution_backward_weights(x, out, weights, None, workspace, *options)
    case = f"{taps} {stride} {channels} {groups} {height} {setting}"
    results |= {f"forward {case}": forward, f"data {case}": data, f"weights {case}": weights}
for lines, depth, columns in ((37, 70, 75), (70, 37, 50)):
    a, b = (generator.standard_normal(size, np.float32) for size in ((lines, depth), (columns, depth)))
    workspace = np.full(matrix_product_workspace(lines, depth, columns), np.nan, np.float32)
    case = f"{lines} {depth} {columns}"
    for name, left, right in (("rows", a, b.T.copy()), ("columns", a.T.copy().T, b.T)):
        results[f"product {name} {case}"] = out = np.empty((lines, columns), np.float32)
        matrix_product(left, right, out, workspace)
np.savez(sys.argv[1], **results)
print(cache_folder())
"""
# The block, arguments and environment of every vector unit but the host's own, which all other tests use.
OTHERS: dict[str, tuple[list[int], list[str], dict[str, str]]] = {"ARM": ([4, 4, 6], ["4", "32"], {})}
if platform.machine() == "x86_64" and vector_registers()[0] > 8:
    OTHERS["AVX2"] = [8, 4, 3], [], {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of x86")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """Of each target the arrays and the cache folder; they compile at the same time.

    The features are empty as Numba otherwise adds the host's to those of the name.
    """
    folder = tmp_path_factory.mktemp("widths")
    runs = {"host": ([], {})} | {name: rest for name, (_, *rest) in OTHERS.items()}
    runs["ARM"][1]["DHHPC_CACHE_DIR"] = str(folder)  # the folder's name does not tell it from the host's
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder / f"{name}.npz"), *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (arguments, environment) in runs.items()
    }
    found = {}
    for name, process in processes.items():
        output, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        with np.load(folder / f"{name}.npz") as arrays:
            found[name] = dict(arrays), output.strip()
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_other_vector_units_give_this_ones_results(name, results):
    arrays, folder = results[name]
    expected, own_folder = results["host"]
    assert arrays["block"].tolist() == OTHERS[name][0]
    assert folder != own_folder
    for key in expected.keys() - {"block"}:
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(arrays[key], expected[key], atol=2e-5 * scale, rtol=0)


@on_x86
@pytest.mark.parametrize(
    ("environment", "registers"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, "(4, 16)"),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, "(8, 16)"),
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
