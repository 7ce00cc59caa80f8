"""Starting values of parameters."""

from __future__ import annotations

import math

import numpy as np

from dhhpc.eddl.graph import Array, Parameter
from dhhpc.errors import DhhpcError

NAMES = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "zeros", "ones")


def fill(parameter: Parameter, out: Array, generator: np.random.Generator) -> None:
    """Write the starting values of `parameter` into `out` (float32).

    he: variance 2 / fan in (He et al., 2015).
    glorot: variance 2 / (fan in + fan out) (Glorot and Bengio, 2010).

    Raises:
        DhhpcError: the initializer's name is unknown.
    """
    fan_in, fan_out = parameter.fan
    match parameter.initializer:
        case "zeros":
            out[...] = 0
            return
        case "ones":
            out[...] = 1
            return
        case "he_normal" | "he_uniform":
            deviation = math.sqrt(2 / fan_in)
        case "glorot_normal" | "glorot_uniform":
            deviation = math.sqrt(2 / (fan_in + fan_out))
        case unknown:
            raise DhhpcError(f"initializer {unknown!r} is unknown; choose one of {', '.join(NAMES)}")
    if parameter.initializer.endswith("uniform"):
        limit = math.sqrt(3) * deviation
        out[...] = generator.uniform(-limit, limit, out.shape)
    else:
        out[...] = generator.normal(0, deviation, out.shape)
