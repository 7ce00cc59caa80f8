"""How work that can be counted is dealt to ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise


def share(count: int, rank: int, size: int) -> range:
    """The contiguous part of `range(count)` that rank `rank` of `size` takes.

    Parts differ by at most one and the first ranks take the longer ones (the rule of `numpy.array_split`), so
    every index belongs to exactly one rank; with fewer items than ranks the last ranks get an empty range.
    """
    shortest, longer = divmod(count, size)
    start = rank * shortest + min(rank, longer)
    return range(start, start + shortest + (rank < longer))


def parts(count: int, weights: Sequence[float]) -> list[range]:
    """The contiguous part of `range(count)` that each rank takes, in proportion to its weight (not negative).

    What is left after rounding down goes to the largest remainders, the first ranks of equal ones (Hamilton's
    method), so a part is less than one off its proportion, and equal weights give `share`.
    """
    total = sum(weights)
    ideal = [count * weight / total for weight in weights]
    sizes = [int(size) for size in ideal]
    remainders = sorted(range(len(weights)), key=lambda rank: sizes[rank] - ideal[rank])
    for rank in remainders[: count - sum(sizes)]:
        sizes[rank] += 1
    return [range(first, last) for first, last in pairwise(accumulate(sizes, initial=0))]
