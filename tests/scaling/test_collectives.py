"""The seconds of all-reduces against numbers worked out by hand."""

from __future__ import annotations

import pytest

from dhhpc.scaling.collectives import Link, all_reduce_seconds, hierarchical_all_reduce_seconds

# A microsecond of latency, and a byte in a nanosecond.
LINK = Link(1e-6, 1e9)


@pytest.mark.parametrize(
    ("size", "ranks", "seconds"),
    [
        (1e6, 1, 0.0),
        # One message each way at once.
        (1000, 2, 2e-6),
        # Two steps of 8 bytes: doubling, since halves would take four latencies.
        (8, 4, 2 * 1.008e-6),
        # Halves and quarters there and back: 4 latencies and 1.5 times the bytes.
        (1e6, 4, 4e-6 + 1.5e-3),
        # The third hands its bytes over and gets them back, around an all-reduce of two.
        (1e6, 3, 1.001e-3 + 2 * 1.001e-3),
    ],
)
def test_all_reduce_by_hand(size: float, ranks: int, seconds: float) -> None:
    assert all_reduce_seconds(size, ranks, LINK) == pytest.approx(seconds)


def test_ranks_of_a_node_meet_in_its_memory() -> None:
    memory = Link(1e-7, 1e10)
    # Four ranks pass 1 MB each three times through 10 GB/s; then two nodes swap it at 1 GB/s.
    assert hierarchical_all_reduce_seconds(1e6, 2, 4, memory, LINK) == pytest.approx(
        3 * (1e-7 + 4e-4) + 1.001e-3
    )
    assert hierarchical_all_reduce_seconds(1e6, 2, 1, memory, LINK) == all_reduce_seconds(1e6, 2, LINK)
