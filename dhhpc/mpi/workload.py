"""How work that can be counted is dealt to ranks."""

from __future__ import annotations


def share(count: int, rank: int, size: int) -> range:
    """The contiguous part of `range(count)` that rank `rank` of `size` takes.

    Parts differ by at most one and the first ranks take the longer ones (the rule of `numpy.array_split`), so
    every index belongs to exactly one rank; with fewer items than ranks the last ranks get an empty range.
    """
    shortest, longer = divmod(count, size)
    start = rank * shortest + min(rank, longer)
    return range(start, start + shortest + (rank < longer))
