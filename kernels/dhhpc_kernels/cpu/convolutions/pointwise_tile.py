"""The inner loop of pointwise convolutions: a block of sums that goes to the output's planes itself.

While it is computed, pixels that are wanted later are on their way from memory.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import (
    FLOATS,
    HEIGHT,
    STEPS,
    block_places,
    index,
    packed_sums,
    panel_lines,
    pointer_at,
)
from dhhpc_kernels.cpu.vectors import Vectors


def _multiply_channels(
    typing_context: Any,
    weights: Any,
    weight: Any,
    panel: Any,
    place: Any,
    depth: Any,
    bias: Any,
    first: Any,
    target: Any,
    start: Any,
    pitch: Any,
    source: Any,
    later: Any,
    later_pitch: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + j] = bias[first + i] + sum over k of left_ki * right_kj.

    left_ki = weights[weight + k*HEIGHT + i], right_kj = panel[place + k*WIDTH + j]; i below HEIGHT, j below
    WIDTH, k below depth, a multiple of STEPS and not 0. Meanwhile the lines of
    source[later + n*later_pitch] are fetched, n below depth / STEPS.
    """
    signature = types.void(
        FLOATS,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        weights, weight, panel, place, depth, bias, first, target, start, pitch, *rest = arguments
        source, later, later_pitch = rest
        emit = Vectors(builder)
        weights, panel, bias, target, source = (
            pointer_at(context, builder, FLOATS, array, begin)
            for array, begin in (
                (weights, weight),
                (panel, place),
                (bias, first),
                (target, start),
                (source, later),
            )
        )

        def fetch(k: ir.Value) -> None:
            line = builder.mul(builder.udiv(k, index(STEPS)), later_pitch)
            emit.prefetch(builder.gep(source, [line]))

        sums = packed_sums(emit, weights, panel_lines(builder, panel), depth, meanwhile=fetch)
        places = block_places(builder, target, pitch)
        for n, (value, pointer) in enumerate(zip(sums, places, strict=True)):
            added = emit.broadcast(builder.load(builder.gep(bias, [index(n * HEIGHT // len(sums))])))
            emit.store(emit.add(value, added), pointer)
        return context.get_dummy_value()

    return signature, generate


multiply_channels: Callable[..., None] = intrinsic(_multiply_channels)
