"""Flat storage: one vector for all arrays of a model, which optimizers and averaging run over in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dhhpc.eddl.graph import Array, Parameter


def allocate(wanted: Sequence[Sequence[Parameter]]) -> tuple[Array, list[list[Array]]]:
    """One zeroed flat float32 vector for all arrays of all layers, and the views of each layer."""
    total = sum(int(np.prod(parameter.shape)) for layer in wanted for parameter in layer)
    vector = np.zeros(total, np.float32)
    return vector, views(vector, wanted)


def views(vector: Array, wanted: Sequence[Sequence[Parameter]]) -> list[list[Array]]:
    """The arrays of each layer inside of such a vector."""
    found: list[list[Array]] = []
    start = 0
    for layer in wanted:
        found.append([])
        for parameter in layer:
            size = int(np.prod(parameter.shape))
            found[-1].append(vector[start : start + size].reshape(parameter.shape))
            start += size
    return found


def aligned_bytes(size: int, alignment: int = 64) -> Array:
    """Bytes whose address is a multiple of `alignment`."""
    raw = np.empty(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]
