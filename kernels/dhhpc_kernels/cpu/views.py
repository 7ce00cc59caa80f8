"""Arrays seen as vectors or planes, and the blocks in which kernels go through them."""

import numpy as np

BLOCK = 1024  # pixels taken at once: their temporaries stay in the first-level cache


def flat(array: np.ndarray) -> np.ndarray:
    """The array as a vector, never a copy. ValueError if it is not contiguous."""
    return array.reshape(-1, copy=False)


def planes(array: np.ndarray) -> np.ndarray:
    """An array (N,C,...) as (N,C,L), never a copy. ValueError if it is not contiguous."""
    return array.reshape(array.shape[0], array.shape[1], -1, copy=False)
