"""How to cut a product's columns and rows for threads that take turns."""

import functools

_CHUNK_WINDOWS = 0.5  # to begin another chunk takes as long as so much of a window of columns


@functools.lru_cache(maxsize=1024)
def even_chunk(windows: int, most: int, workers: int) -> int:
    """Windows of a chunk with which the threads, taking turns, end soonest.

    At most so many, and at least half of that, so that the workspace for several threads is enough for one.
    """

    def longest(size: int) -> int:
        full, rest = divmod(windows, size)
        rounds, more = divmod(full, workers)
        return (rounds + 1) * size if more else rounds * size + rest

    return min(
        range(most, -(-most // 2) - 1, -1),
        key=lambda size: longest(size) + _CHUNK_WINDOWS * windows / (size * workers),
    )


def row_blocks(blocks: int, chunks: int, workers: int) -> int:
    """Blocks of rows that a thread computes at once: not all where chunks are fewer than threads."""
    return -(-blocks // max(1, min(blocks, workers // chunks)))
