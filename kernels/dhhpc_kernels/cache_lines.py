"""Numbers that lie by the cache line: who writes one disturbs who looks at another in the same line."""

import numpy as np

LINE = 8  # numbers (int64)


def aligned_zeros(size: int) -> np.ndarray:
    """Zeros (int64), the first at the beginning of a cache line."""
    numbers = np.zeros(size + LINE, np.int64)
    start = -(numbers.ctypes.data // 8) % LINE
    return numbers[start : start + size]


def whole_lines(count: int) -> int:
    """The numbers of the lines that so many begin."""
    return -(-count // LINE) * LINE
