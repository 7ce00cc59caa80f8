"""Checking the scratch memory that callers lend to the kernels."""

import numpy as np


def check_workspace(workspace: np.ndarray, size: int) -> None:
    """Refuse a workspace of fewer than `size` floats: the kernels write without bounds checks.

    Raises ValueError, which says how many floats it lacks.
    """
    if workspace.size < size:
        raise ValueError(f"the workspace lacks {size - workspace.size} floats: see the kernel's _workspace")
