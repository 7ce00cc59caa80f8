"""The beginning of a set of shards, and the memory that samples keep once they are read."""

from __future__ import annotations

import numpy as np
import pytest

from dhhpc.data.excerpt import Excerpt
from dhhpc.data.folds import Fold, FoldedShards
from dhhpc.data.shards import ShardSet

# Of a sample: 16 x 16 float32, as many uint8 of its mask, and whether it is held.
SAMPLE = 16 * 16 * 5 + 1


def test_an_excerpt_is_the_first_samples_of_its_splits(discs):
    whole = ShardSet(discs)
    part = Excerpt(whole, {"training": 3, "validation": 100})
    assert part.splits == ["training", "validation"]
    assert [part.count(split) for split in ("training", "validation", "test")] == [3, 6, 0]
    images, masks, _ = part.read("training", range(3))
    expected, expected_masks, _ = whole.read("training", range(3))
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(masks, expected_masks)
    assert part.identifiers("training") == ["training-0", "training-1", "training-2"]
    assert part.groups("training") == whole.groups("training")[:3]
    assert len(part.labels("training")) == 3
    for split, index in (("training", 3), ("test", 0)):
        with pytest.raises(IndexError), part.sample(split, index):
            pass


def test_samples_that_are_read_keep_their_bytes(discs):
    whole = ShardSet(discs)
    assert whole.cached_bytes("training", 4) == Excerpt(whole, {}).cached_bytes("training", 4) == 4 * SAMPLE
    assert whole.cached_bytes("training", 1000) == 21 * SAMPLE
    assert ShardSet(discs, cache_bytes=0).cached_bytes("training", 4) == 0
    # Of a fold every sample may be one of a split that is kept.
    folded = FoldedShards(discs, Fold(part=1, of=3))
    assert folded.cached_bytes("training", 18) == 18 * SAMPLE
    assert folded.cached_bytes("test", 2) == 2 * SAMPLE
    # Nothing but the smaller split fits.
    assert ShardSet(discs, cache_bytes=7 * SAMPLE).cached_bytes("training", 1) == 0
    assert ShardSet(discs, cache_bytes=7 * SAMPLE).cached_bytes("validation", 1) == SAMPLE
