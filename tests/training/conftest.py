import sys
from pathlib import Path

import pytest

# Modules beside the tests are found by name, whatever folder pytest starts in.
sys.path.insert(0, str(Path(__file__).parent))

import synthetic


@pytest.fixture(scope="session")
def discs(tmp_path_factory) -> Path:
    """Segmentation shards whose counts leave uneven tails: 21 training, 6 validation, 5 test images."""
    return synthetic.write_discs(
        tmp_path_factory.mktemp("discs"), {"training": 21, "validation": 6, "test": 5}
    )
