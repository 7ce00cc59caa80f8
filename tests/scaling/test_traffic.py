"""What averaging takes by the alpha-beta model, message by message, worked out by hand."""

from __future__ import annotations

import pytest

from dhhpc import zoo
from dhhpc.scaling.collectives import Link
from dhhpc.scaling.resources.traffic import Network, averaging_seconds
from dhhpc.training import Experiment
from dhhpc.training.footprint import Counting
from tests import synthetic

# A message takes a millisecond between nodes and a hundredth of that in one; a byte a nanosecond and a fifth.
NETWORK = Network(across=Link(1e-3, 1e9), memory=Link(1e-5, 5e9))


def counting(discs, tmp_path, parallel: dict, **changes) -> Counting:
    document = synthetic.experiment_document(discs, tmp_path, parallel=parallel, **changes)
    experiment = Experiment.model_validate(document)
    return Counting(experiment, experiment.data.open(), zoo.create)


def test_each_method_sends_its_messages(discs, tmp_path):
    def seconds(nodes: int, per_node: int, parallel: dict, **changes) -> float:
        return averaging_seconds(counting(discs, tmp_path, parallel, **changes), nodes, per_node, NETWORK)

    gradient = {"method": "gradient"}
    parameters = counting(discs, tmp_path, gradient).model.parameter_count
    assert seconds(1, 1, gradient) == 0
    # Gradients and two whole numbers.
    assert seconds(2, 1, gradient) == pytest.approx(2e-3 + (4 * parameters + 16) / 1e9)
    assert seconds(1, 2, gradient) == pytest.approx(2e-5 + (4 * parameters + 16) / 5e9)
    # Four ranks in two steps; two of them share what joins their node to others.
    assert seconds(2, 2, gradient) == pytest.approx(4e-3 + 2 * 2 * (4 * parameters + 16) / 1e9)
    # Half the bytes, and a power of two that is sent ahead.
    half = gradient | {"compression": {"method": "fp16"}}
    assert seconds(2, 1, half) == pytest.approx(2e-3 + (2 * parameters + 4 + 16) / 1e9)
    # Each sends a tenth of the numbers, with their places.
    few = gradient | {"compression": {"method": "top-k", "ratio": 0.1}}
    sent = 8 * -(-parameters // 10)
    assert seconds(2, 1, few) == pytest.approx(2e-3 + (sent + 16) / 1e9)
    # Parameters and both moments of Adam, every fourth batch.
    fixed = {"method": "fixed", "period": 4}
    adam = {"name": "adam"}
    assert seconds(2, 1, fixed, optimizer=adam) == pytest.approx((3e-3 + (12 * parameters + 16) / 1e9) / 4)
    kept = fixed | {"optimizer_state": "keep"}
    assert seconds(2, 1, kept, optimizer=adam) == pytest.approx((2e-3 + (4 * parameters + 16) / 1e9) / 4)
    # The first of two epochs averages gradients.
    switched = {"method": "local-sgd", "switch_epoch": 1, "period": 4}
    both = (seconds(2, 1, gradient) + seconds(2, 1, fixed)) / 2
    assert seconds(2, 1, switched) == pytest.approx(both)


def test_buckets_cost_a_message_each(discs, tmp_path):
    network = {"name": "unet", "channels": [16, 64], "normalization": False}
    gradient = {"method": "gradient", "bucket_megabytes": 0.0625}
    found = counting(discs, tmp_path, gradient, network=network)
    buckets = found.model.parameter_count // 2**14
    assert buckets > 1
    expected = (buckets + 1) * 1e-3 + (4 * found.model.parameter_count + 16) / 1e9
    assert averaging_seconds(found, 2, 1, NETWORK) == pytest.approx(expected)
