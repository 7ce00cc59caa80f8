"""Sums of arrays of one shape. NumPy's loops are memory-bound here, so nothing is compiled."""

from collections.abc import Sequence

import numpy as np


def add_forward(inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
    """out = the sum of the inputs (one or more arrays of out's shape); the first may be out itself."""
    if len(inputs) == 1:
        np.copyto(out, inputs[0])
        return
    np.add(inputs[0], inputs[1], out=out)
    for addend in inputs[2:]:
        np.add(out, addend, out=out)


def accumulate(addend: np.ndarray, total: np.ndarray) -> None:
    """total += addend."""
    np.add(total, addend, out=total)
