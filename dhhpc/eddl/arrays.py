"""Checking the arrays that a caller hands to a model, before anything runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Layer
from dhhpc.errors import DhhpcError


def as_samples(arrays: Sequence[Any], layers: Sequence[Layer], kind: str, network: str) -> list[Array]:
    """`arrays` as NumPy arrays of real numbers, one a layer, all with equally many samples, at least one.

    Args:
        layers: the inputs or outputs that the arrays belong to.
        kind: "input" or "target".
        network: the model's name.

    Raises:
        DhhpcError: another number of arrays, of samples, or what is no array of numbers; one line that names
            the shapes and the layer or the network.
    """
    if len(arrays) != len(layers):
        put = {"input": "inputs", "target": "outputs"}[kind]
        raise DhhpcError(
            f"{network}: {len(arrays)} {kind} arrays for {len(layers)} {put}; give a list of them"
        )
    found = [
        as_numbers(array, f"{layer.describe()}: {kind}") for array, layer in zip(arrays, layers, strict=True)
    ]
    counts = [len(array) for array in found]
    if min(counts) < 1 or min(counts) != max(counts):
        shapes = ", ".join(str(array.shape) for array in found)
        raise DhhpcError(
            f"{network}: {kind}s of shape {shapes} hold {counts} samples; give equal numbers, at least 1"
        )
    return found


def as_inputs(arrays: Sequence[Any], layers: Sequence[Layer], network: str) -> list[Array]:
    """`as_samples` of inputs, with the channels that the network takes; images may have any size.

    Raises:
        DhhpcError: also for samples of another kind than the Input layer's.
    """
    found = as_samples(arrays, layers, "input", network)
    for array, layer in zip(found, layers, strict=True):
        if array.shape[1:2] != layer.shape[:1] or array.ndim != 1 + len(layer.shape):
            raise layer.refuse(f"takes samples of shape {layer.shape}, found {array.shape[1:]}")
        if 0 in array.shape:
            raise layer.refuse(f"samples of shape {array.shape[1:]} hold nothing")
    return found


def as_targets(
    arrays: Sequence[Any], layers: Sequence[Layer], network: str, inputs: Sequence[Array]
) -> list[Array]:
    """`as_samples` of targets, as many as the checked `inputs` have.

    Raises:
        DhhpcError: also for another number of samples. Their shape is compared with the predictions' later.
    """
    found = as_samples(arrays, layers, "target", network)
    for array, layer in zip(found, layers, strict=True):
        if len(array) != len(inputs[0]):
            raise layer.refuse(f"targets of shape {array.shape} do not fit inputs of shape {inputs[0].shape}")
    return found


def as_numbers(array: Any, what: str) -> Array:
    """`array` as a NumPy array of real numbers with an axis of samples."""
    try:
        found = np.asarray(array)
    except ValueError:  # nested lists of different lengths
        raise DhhpcError(f"{what} is no array: its rows have different lengths") from None
    if found.ndim == 0 or found.dtype.kind not in "biuf":
        raise DhhpcError(
            f"{what} of type {found.dtype} and shape {found.shape}; give an array of real numbers"
        )
    return found
