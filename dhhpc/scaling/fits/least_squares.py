"""Least squares with parameters that are not negative, for many right-hand sides at once."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Parameters whose columns are so much alike are not told apart by any measurement.
MOST_CONDITION = 1e3
# The smallest eigenvalue of the products of columns of length 1 that are alike but for rounding.
SAME = 1e-12


def not_negative(columns: Array, values: Array) -> Array:
    """The parameters p >= 0 for which `columns @ p` is nearest to `values`.

    Exact: where some are held at zero, the others are those of plain least squares, so the best of all
    subsets of columns whose plain solution is not negative is the solution (Lawson and Hanson, "Solving Least
    Squares Problems", 1974, chapter 23). For the few parameters of a model, all subsets are tried.

    Args:
        columns: (N, P) float.
        values: (N, R) float, of which each column is a problem of its own.

    Returns:
        (P, R) float.
    """
    count = columns.shape[1]
    scale = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(scale > 0, scale, 1.0)
    products, right = scaled.T @ scaled, scaled.T @ values
    best = np.zeros((count, values.shape[1]))
    # By how much the squared error falls below |values|^2, which is that of all parameters at zero.
    most = np.zeros(values.shape[1])
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            rows = list(chosen)
            part = products[np.ix_(rows, rows)]
            if size > 1 and np.linalg.eigvalsh(part)[0] < SAME:
                continue  # a smaller subset says as much
            found = np.linalg.solve(part, right[rows]) if size > 1 else right[rows]
            gain = (found * right[rows]).sum(axis=0)
            better = (found >= 0).all(axis=0) & (gain > most)
            whole = np.zeros_like(best)
            whole[rows] = found
            best = np.where(better, whole, best)
            most = np.where(better, gain, most)
    solved: Array = best / np.where(scale > 0, scale, 1.0)[:, None]
    return solved


def condition(columns: Array) -> float:
    """How alike columns (N, P) are whatever their units: 1 for none, infinite where one says nothing new."""
    scale = np.linalg.norm(columns, axis=0)
    if not scale.all():
        return float("inf")
    return float(np.linalg.cond(columns / scale))
