"""What a run has learned, and how two of them compare."""

from pathlib import Path

import numpy as np

from dhhpc import zoo
from dhhpc.mpi import World
from dhhpc.training import Experiment, train
from tests import synthetic


def parameters(record) -> dict[str, np.ndarray]:
    with np.load(record.model) as archive:
        return {name: archive[name] for name in archive.files if name.startswith("parameters/")}


def assert_identical(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def assert_close(one, other, tolerance=1e-5):
    """Within `tolerance` of the largest number of each array."""
    assert one.keys() == other.keys()
    for name in one:
        scale = np.abs(other[name]).max()
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance * scale, err_msg=name)


def largest_difference(one, other) -> float:
    """Of any two numbers; for arrays that begin at 0 and stay small."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def run(shards: Path, output: Path, world: World | None = None, create=zoo.create, **changes):
    experiment = Experiment.model_validate(synthetic.experiment_document(shards, output, **changes))
    return train(experiment, world or World(), create)
