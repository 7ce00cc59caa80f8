"""`dhhpc kernels bench` on its smallest cases, and what its figures rest on."""

import json
import os
import subprocess
import sys
import timeit

import numpy as np
import pytest
import torch
from dhhpc_kernels.cpu.peak import peak_gflops
from torch.utils.flop_counter import FlopCounterMode

from dhhpc import zoo
from dhhpc.benchmarks import busy_cores, own_side, torch_side
from dhhpc.benchmarks.cases import (
    CASES,
    DIRECTIONS,
    AdamStep,
    Convolution,
    Dropout,
    Inference,
    SoftmaxCrossEntropy,
    StackedLSTM,
    Training,
)
from dhhpc.benchmarks.torch_side import TorchNetwork
from tests import synthetic

SMALL = "depthwise convolution 3x3/2 128-128@56 backward-data"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dhhpc", "kernels", "bench", *arguments],
        env=synthetic.clean_environment(),
        capture_output=True,
        text=True,
    )


def test_both_sides_in_turn_as_json():
    result = bench("--peer", "torch", "--only", SMALL, "--only", "mnist", "--rounds", "1", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert {
        "host",
        "threads",
        "rounds",
        "busy_cores",
        "peak_gflops",
        "peer",
        "versions",
        "geometric_means",
    } < set(document)
    assert document["rounds"] == 1
    layer, network = document["results"]
    assert layer["name"] == SMALL
    assert layer["peak_memory"] is None
    assert network["name"] == "training mnist 100x1x28x28"
    # Either process holds at least an interpreter with its library.
    assert network["peak_memory"] > 50e6
    assert network["peer_peak_memory"] > 100e6
    for row in (layer, network):
        assert row["ratio"]["median"] == pytest.approx(
            row["peer_seconds"]["median"] / row["seconds"]["median"]
        )
        assert row["gflops"] == pytest.approx(row["peak_share"] * document["peak_gflops"])
        assert row["bytes"] == pytest.approx(row["gigabytes_per_second"] * 1e9 * row["seconds"]["median"])
    assert document["geometric_means"] == {
        "Convolution": pytest.approx(layer["ratio"]["median"]),
        "Training": pytest.approx(network["ratio"]["median"]),
    }


def test_a_line_a_benchmark_without_a_peer():
    result = bench("--only", SMALL, "--rounds", "1", "--threads", "1")
    assert result.returncode == 0, result.stderr
    first, heading, line = result.stdout.splitlines()
    assert first.startswith("1 threads, measured peak ")
    assert heading.split()[0] == "benchmark"
    assert line.startswith(SMALL)
    milliseconds, gflops, share, *_ = line.removeprefix(SMALL).split()  # and no figures of a peer
    assert float(milliseconds) > 0
    assert float(gflops) > 0
    assert share.endswith("%")


def test_other_work_on_the_machine_is_noticed():
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert busy_cores(1.0) > 0.5
    finally:
        spinning.kill()
        spinning.wait()


def test_a_missing_peer_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; from dhhpc.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "kernels", "bench", "--peer", "torch"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == 'dhhpc: --peer torch: it is not installed; run `pip install "dhhpc[bench]"`\n'


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(("--only", "resnet81"), "'resnet81'"), (("--peer", "torhc", "--only", SMALL), "choose one of torch")],
)
def test_wrong_names_are_told_in_one_line(arguments, part):
    result = bench(*arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert part in line


def test_the_peak_is_above_blas_and_below_what_cpus_can():
    x = np.ones((512, 512), np.float32)
    seconds = min(timeit.repeat(lambda: x @ x, number=1))
    peak = max(peak_gflops() for _ in range(3))  # others take the cores now and then
    assert 0.5 * 2 * 512**3 / seconds / 1e9 < peak
    # 2 units of 16 lanes, an addition and a multiplication each, at 6 GHz on every core.
    assert peak < 2 * 16 * 2 * 6.0 * len(os.sched_getaffinity(0))


def test_explain_names_the_algorithms():
    result = bench("--explain", "--only", "training mnist", "--only", "3x3/2 64-128@56", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["case"] for row in rows] == ["convolution 3x3/2 64-128@56"] + [
        "training mnist 100x1x28x28"
    ] * 4
    assert [row["weights"] for row in rows[1:]] == ["32x1x3x3", "64x32x3x3", "128x64x3x3", "256x128x3x3"]
    assert rows[0]["forward"] == "implicit product"
    assert rows[0]["backward_data"] == "winograd 4x4 at stride 2"
    assert rows[0]["backward_weights"] == "implicit product"


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def counted_by_torch(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", [Inference, Training])
@pytest.mark.parametrize(
    ("network", "shape", "classes", "options"),
    [("resnet18", (3, 32, 32), 10, {"width": 8}), ("unet", (1, 32, 32), 1, {"channels": [4, 8, 16]})],
)
def test_operations_are_those_that_pytorch_counts(kind, network, shape, classes, options):
    case = kind("tiny", network, 2, shape, classes, options)
    assert case.operations() == counted_by_torch(torch_side.prepare(case))


@pytest.mark.parametrize(
    "case",
    [
        Dropout("tiny", (2, 3)),
        StackedLSTM("tiny", 2, 4, 3, 5),
        AdamStep("tiny", 10),
        AdamStep("tiny", 10, fused=True),
        SoftmaxCrossEntropy("tiny", 3, 4),
        Inference("tiny", "vgg16", 1, (3, 32, 32), 4, {"channels": [4] * 5, "units": 8}),
    ],
    ids=lambda case: type(case).__name__,
)
def test_both_sides_run(case):
    own_side.prepare(case)()
    torch_side.prepare(case)()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_operations_of_a_convolution_are_those_that_pytorch_counts(direction):
    case = Convolution("tiny", direction, 2, 6, 4, (9, 8), (3, 3), (2, 2))
    assert case.operations() == counted_by_torch(torch_side.prepare(case))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options"),
    [
        ("convnet", (1, 28, 28), 10, {}),
        ("resnet18", (3, 64, 64), 7, {"width": 8}),
        ("unet", (1, 32, 32), 1, {"channels": [4, 8, 16]}),
        ("vgg16", (3, 32, 32), 5, {"channels": [4, 4, 8, 8, 8], "units": 16}),
    ],
)
def test_pytorchs_network_is_the_same(name, shape, classes, options):
    model = zoo.create(name, shape, classes, **options)
    model.build()
    network = TorchNetwork(model).eval()
    with torch.no_grad():
        ours = [view for layer in model.parameter_views for view in layer]
        for tensor, array in zip(network.parameters(), ours, strict=True):
            tensor.copy_(torch.from_numpy(array))
        images = np.random.default_rng(1).standard_normal((2, *shape), np.float32)
        logits = network(torch.from_numpy(images))
        expected = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, 1)
    np.testing.assert_allclose(model.predict([images])[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_vgg16_has_the_papers_parameters():
    assert zoo.create("vgg16", (3, 224, 224), 1000).parameter_count == 138_357_544
