"""What only shows over hundreds of steps: rounding that adds up, and memory that leaks."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dhhpc import eddl, zoo

# DHHPC_STEPS sets how many: 300 by hand, fewer with every run of the tests.
STEPS, WINDOW = int(os.environ.get("DHHPC_STEPS", "90")), 30
NETWORKS = {
    "unet": ((1, 48, 48), 1, {"channels": [8, 16, 32]}, "binary_cross_entropy"),
    "resnet18": ((3, 48, 48), 4, {"width": 8}, "categorical_cross_entropy"),
}


def curve(network: str, seed: int) -> np.ndarray:
    """Mean loss of each window of steps; seed: of the parameters and of the images' order."""
    shape, classes, options, loss = NETWORKS[network]
    generator = np.random.default_rng(1)
    kinds = generator.integers(0, 4, 64)
    rows, columns = np.ogrid[:48, :48]
    discs = [(rows - 12 * (k % 2) - 18) ** 2 + (columns - 12 * (k // 2) - 18) ** 2 < 100 for k in range(4)]
    images = np.stack([discs[kind] for kind in kinds])[:, None].repeat(shape[0], 1)
    noisy = (images + generator.normal(0, 0.7, images.shape)).astype(np.float32)
    targets = images.astype(np.float32) if classes == 1 else kinds
    net = zoo.create(network, shape, classes, **options)
    net.build(eddl.SGD(0.01, momentum=0.9), [loss], seed=seed)
    order = np.random.default_rng(seed)
    losses = []
    for _ in range(STEPS):
        batch = order.integers(0, 64, 4)
        losses.append(net.train_batch([noisy[batch]], [targets[batch]])["loss"])
    return np.reshape(losses, (-1, WINDOW)).mean(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_winograd_trains_as_direct_convolution_does(network, monkeypatch):
    monkeypatch.setenv("DHHPC_CONVOLUTION", "winograd")
    winograd = curve(network, seed=1)
    monkeypatch.setenv("DHHPC_CONVOLUTION", "direct")
    direct, *others = (curve(network, seed) for seed in (1, 2, 3))
    assert direct[-1] < 0.7 * direct[0], "nothing was learned"
    spread = np.ptp([direct, *others], axis=0)
    assert np.abs(winograd - direct).mean() <= spread.mean()


def test_memory_stays_flat_over_500_steps():
    code = """
import numpy as np
from dhhpc import eddl, zoo
net = zoo.create("convnet", (1, 28, 28), 10, channels=[8, 16], normalization=True)
net.build(eddl.Adam(), ["categorical_cross_entropy"], metrics=["accuracy"])
x, y = np.ones((16, 1, 28, 28), np.float32), np.zeros(16, np.int64)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
for step in range(600):
    net.train_batch([x], [y])
    if step == 99:
        before = resident()
print(resident() - before)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 2**20
