import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dhhpc.mpi import share


@given(st.integers(0, 200), st.integers(1, 33))
def test_parts_follow_array_split_and_cover_everything_once(count, size):
    parts = [list(share(count, rank, size)) for rank in range(size)]
    expected = [part.tolist() for part in np.array_split(np.arange(count), size)]
    assert parts == expected
