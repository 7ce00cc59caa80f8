import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dhhpc.mpi import parts, share


@given(st.integers(0, 200), st.integers(1, 33))
def test_parts_follow_array_split_and_cover_everything_once(count, size):
    found = [list(share(count, rank, size)) for rank in range(size)]
    expected = [part.tolist() for part in np.array_split(np.arange(count), size)]
    assert found == expected
    assert [list(part) for part in parts(count, [1.0] * size)] == expected


@given(st.integers(0, 300), st.lists(st.floats(0.01, 100), min_size=1, max_size=20))
def test_weighted_parts_cover_everything_once_and_lie_close_to_their_proportion(count, weights):
    found = parts(count, weights)
    assert [index for part in found for index in part] == list(range(count))
    for part, weight in zip(found, weights, strict=True):
        assert abs(len(part) - count * weight / sum(weights)) < 1


def test_weighted_parts_by_hand():
    """5, 3 and 2 of 10; of 11 the ideal is 5.5, 3.3, 2.2, and the largest remainder takes the one left."""
    assert [len(part) for part in parts(10, [5, 3, 2])] == [5, 3, 2]
    assert [len(part) for part in parts(11, [5, 3, 2])] == [6, 3, 2]
    assert [len(part) for part in parts(7, [1, 0, 1])] == [4, 0, 3]
