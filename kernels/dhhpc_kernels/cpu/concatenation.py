"""Joining arrays along the channel axis."""

from collections.abc import Sequence

import numpy as np


def concatenate_forward(inputs: Sequence[np.ndarray], out: np.ndarray) -> None:
    """out (N,C1+C2+...,...) = the inputs (N,Ci,...) one after the other along axis 1."""
    np.concatenate(inputs, axis=1, out=out)


def concatenate_backward(grad_out: np.ndarray, grad_inputs: Sequence[np.ndarray]) -> None:
    """Each of grad_inputs (N,Ci,...) = its channels of grad_out."""
    first = 0
    for grad_input in grad_inputs:
        last = first + grad_input.shape[1]
        np.copyto(grad_input, grad_out[:, first:last])
        first = last
