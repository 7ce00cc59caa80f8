"""The folder of compiled kernels: many processes at once, killed ones, read-only and damaged folders."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import dhhpc_kernels
import pytest
from dhhpc_kernels import cache

from dhhpc import eddl
from dhhpc.eddl import warm_up
from dhhpc.eddl.layers import ALL as ALL_LAYERS

# Waits for a line, so that several start at once.
PROGRAM = """
import json, sys, numpy, dhhpc_kernels
from dhhpc_kernels.compilation import compilations
kernels = dhhpc_kernels.backend("cpu")
x = numpy.zeros((1, 2, 3), "f")
print("ready", flush=True)
sys.stdin.readline()
kernels.softmax_forward(x, x)
compiled = {name.split(".")[-1]: count for name, count in compilations().items() if count}
print(json.dumps([x.ravel().tolist(), compiled]))
"""
RIGHT = [0.5] * 6


def start(folder: Path, *prefix: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM],
        env=os.environ | {"DHHPC_CACHE_DIR": str(folder)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[list[float], dict[str, int], str]:
    """The numbers, how often each kernel was compiled, and stderr."""
    output, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    numbers, compiled = json.loads(output.splitlines()[-1])
    return numbers, compiled, errors


def run(folder: Path, *prefix: str, **environment: str) -> tuple[list[float], dict[str, int], str]:
    return finish(start(folder, *prefix, **environment))


def read_only(folder: Path) -> list[str]:
    """Take the right to write away; returns the prefix of a command that root's privilege does not help."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"]


class Filled(NamedTuple):
    """A cache that holds what PROGRAM needs (copy it to change it), and what that is: each kernel once."""

    folder: Path
    compiled: dict[str, int]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    folder = tmp_path_factory.mktemp("filled")
    numbers, compiled, errors = run(folder)
    assert (numbers, errors) == (RIGHT, "")
    assert len(compiled) > 1  # a kernel and those that it calls
    assert set(compiled.values()) == {1}
    return Filled(folder, compiled)


def test_many_processes_at_once_compile_once(filled, tmp_path):
    """DHHPC_PROCESSES sets how many."""
    processes = [start(tmp_path) for _ in range(int(os.environ.get("DHHPC_PROCESSES", "6")))]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [finish(process) for process in processes]
    assert {(*numbers, errors) for numbers, _, errors in results} == {(*RIGHT, "")}
    total = sum((Counter(compiled) for _, compiled, _ in results), Counter())
    assert total == filled.compiled
    assert run(tmp_path) == (RIGHT, {}, "")


def test_a_killed_process_holds_nobody_up(filled, tmp_path):
    process = start(tmp_path)
    process.stdin.write("\n")
    process.stdin.flush()
    end = time.monotonic() + 60
    while not list(tmp_path.rglob("*.lock")):
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.rglob("*.nbc"))
    assert run(tmp_path) == (RIGHT, filled.compiled, "")


def test_a_filled_read_only_folder_serves_silently(filled, tmp_path):
    folder = shutil.copytree(filled.folder, tmp_path / "cache")
    assert run(folder, *read_only(folder)) == (RIGHT, {}, "")


def test_a_read_only_folder_that_lacks_kernels_is_said_once(filled, tmp_path):
    folder = tmp_path / "cache"
    (folder / "kernels").mkdir(parents=True)
    numbers, compiled, errors = run(folder, *read_only(folder))
    assert (numbers, compiled) == (RIGHT, filled.compiled)
    (line,) = errors.splitlines()
    assert "not kept" in line
    assert str(folder) in line
    assert "DHHPC_CACHE_DIR" in line
    assert not list((folder / "kernels").iterdir())


def test_a_file_in_the_folders_place_is_said_once(filled, tmp_path):
    (tmp_path / "file").write_text("in the way")
    numbers, compiled, errors = run(tmp_path / "file")
    assert (numbers, compiled) == (RIGHT, filled.compiled)
    (line,) = errors.splitlines()
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize(("suffix", "size"), [("nbi", 0), ("nbi", 100), ("nbc", 100)])
def test_files_cut_short_are_replaced(filled, tmp_path, suffix, size):
    folder = shutil.copytree(filled.folder, tmp_path / "cache")
    for path in folder.rglob(f"*.{suffix}"):
        os.truncate(path, size)
    assert run(folder) == (RIGHT, filled.compiled, "")
    assert run(folder) == (RIGHT, {}, "")


def test_xdg_cache_home_is_used(filled, tmp_path):
    shutil.copytree(filled.folder, tmp_path / "dhhpc")
    assert run(Path(), DHHPC_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path)) == (RIGHT, {}, "")


def test_an_edit_recompiles_what_it_concerns(tmp_path):
    package = Path(dhhpc_kernels.__file__).parent
    copy = shutil.copytree(package, tmp_path / "dhhpc_kernels")
    code = (
        "import json; from dhhpc_kernels.cache import PACKAGE, module_hash\n"
        "print(json.dumps({path.stem: module_hash(path) for path in PACKAGE.glob('cpu/**/*.py')}))"
    )

    def hashes() -> dict[str, str]:
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(result.stdout)

    before = hashes()
    with open(copy / "cpu" / "exponential.py", "a") as file:
        file.write("# changed\n")
    after = hashes()
    changed = {name for name in before if before[name] != after[name]}
    assert {"exponential", "activations", "losses"} <= changed  # losses by way of activations too
    assert not changed & {"microkernel", "convolution", "correlation", "dense"}


def test_build_leaves_nothing_to_compile():
    """On the session's own cache, as other tests use the same kernels."""
    built = subprocess.run(
        [sys.executable, "-m", "dhhpc", "kernels", "build", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    document = json.loads(built.stdout)
    assert Path(document["folder"]).is_dir()
    assert 0 <= document["compiled"] <= document["kernels"]
    code = """
import numpy
from dhhpc import eddl, zoo
from dhhpc_kernels.compilation import compilations
for network, shape, classes, options in (
    ("convnet", (1, 28, 28), 3, {}),
    ("resnet18", (3, 32, 32), 3, {"width": 4}),
    ("unet", (1, 32, 32), 1, {"channels": [4, 8]}),
    ("unet", (1, 32, 32), 2, {"channels": [4, 8], "upsampling": "bilinear"}),
):
    model = zoo.create(network, shape, classes, **options)
    loss = "binary_cross_entropy+dice" if classes == 1 else "categorical_cross_entropy"
    for optimizer in (eddl.SGD(momentum=0.9), eddl.Adam()):
        model.build(optimizer, [loss])
        x = numpy.ones((2, *shape), "f")
        target = numpy.zeros((2, *model.outputs[0].shape), "f")
        model.train_batch([x], [target])
        if classes > 1:
            model.train_batch([x], [numpy.zeros((2, *model.outputs[0].shape[1:]), int)])
        model.predict([x])
print({name: count for name, count in compilations().items() if count})
"""
    used = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert used.stdout == "{}\n"


def test_build_knows_every_layer():
    kinds = {type(example(eddl.BatchNormalization(eddl.Input(shape)))) for shape, example in warm_up.EXAMPLES}
    assert kinds | {eddl.Input} == set(ALL_LAYERS)


def test_build_knows_every_kernel():
    """In a process of its own, where no other test has called any."""
    code = """
import importlib, pkgutil, dhhpc_kernels
modules = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(dhhpc_kernels.__path__, "dhhpc_kernels.")
]
from dhhpc.eddl import warm_up
from dhhpc_kernels import compilation
warm_up.warm_up()
called = [kernel for kernel in compilation.kernels if kernel.signatures]
# Others are compiled into those that call them, kernels or parts.
compiled = [value for module in modules for value in vars(module).values() if hasattr(value, "py_func")]
inner = [
    value.py_func.__globals__.get(name) for value in compiled for name in value.py_func.__code__.co_names
]
assert len(called) > 50, called
print([kernel.__name__ for kernel in compilation.kernels if not any(kernel is one for one in called + inner)])
"""
    loose = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loose.stdout == "[]\n"


def test_a_folder_that_cannot_be_filled_fails_the_build(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = subprocess.run(
        [sys.executable, "-m", "dhhpc", "kernels", "build"],
        env=os.environ | {"DHHPC_CACHE_DIR": str(tmp_path / "file")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "file") in line


def test_imports_are_those_that_the_parser_finds():
    for source in cache.PACKAGE.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        files = {cache.PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in names}
        own = {file for file in files if cache.PACKAGE in file.parents and file.is_file()}
        assert cache.imports(source) == own, source
