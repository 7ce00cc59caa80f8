"""The inner loop of pointwise convolutions: a block of sums that is written to the output's planes itself.

A block is as wide as whole cache lines, so that its rows can go to memory past the caches, and as high as the
registers then allow. While it is computed, pixels that are wanted later are on their way from memory.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import FLOATS, LANES, LINE, REGISTERS, index, pointer_at
from dhhpc_kernels.cpu.vectors import Vectors

_VECTORS = max(2, LINE // LANES)  # of a row: with fewer than two, loads would keep multiply-adds waiting
WIDTH = _VECTORS * LANES  # pixels of a block
HEIGHT = (REGISTERS - 1 - _VECTORS) // _VECTORS  # channels of a block
STEPS = 4  # source channels that are multiplied before the loop's next turn

_FLOAT = ir.FloatType()
_ZEROS = ir.Constant(ir.VectorType(_FLOAT, LANES), None)


def _multiply_block(
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
    WIDTH, k below depth, a multiple of STEPS and not 0. Meanwhile the
    lines of source[later + n*later_pitch] are fetched, n below depth / STEPS.
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

        def body(k: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            fetched = builder.mul(builder.udiv(k, index(STEPS)), later_pitch)
            emit.prefetch(builder.gep(source, [fetched]))
            pixels = builder.gep(panel, [builder.mul(k, index(WIDTH))])
            factors = builder.gep(weights, [builder.mul(k, index(HEIGHT))])
            for step in range(STEPS):
                columns = [
                    emit.load(builder.gep(pixels, [index(step * WIDTH + v * LANES)])) for v in range(_VECTORS)
                ]
                rows = [builder.gep(factors, [index(step * HEIGHT + i)]) for i in range(HEIGHT)]
                sums = emit.add_products(rows, columns, sums)
            return sums

        sums = emit.sums([_ZEROS] * (HEIGHT * _VECTORS), depth, STEPS, body)
        for i in range(HEIGHT):
            added = emit.broadcast(builder.load(builder.gep(bias, [index(i)])))
            row = builder.gep(target, [builder.mul(pitch, index(i))])
            for v in range(_VECTORS):
                emit.store(emit.add(sums[i * _VECTORS + v], added), builder.gep(row, [index(v * LANES)]))
        return context.get_dummy_value()

    return signature, generate


def _copy(past_caches: bool) -> Callable[..., tuple[Any, Any]]:
    def copy(typing_context: Any, source: Any, place: Any, target: Any, start: Any) -> tuple[Any, Any]:
        signature = types.void(FLOATS, types.int64, FLOATS, types.int64)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, place, target, start = arguments
            emit = Vectors(builder)
            source = pointer_at(context, builder, FLOATS, source, place)
            target = pointer_at(context, builder, FLOATS, target, start)
            store = emit.stream if past_caches else emit.store
            for v in range(_VECTORS):
                here = index(v * LANES)
                store(emit.load(builder.gep(source, [here])), builder.gep(target, [here]))
            return context.get_dummy_value()

        return signature, generate

    return copy


multiply_block: Callable[..., None] = intrinsic(_multiply_block)
# target[start + j] = source[place + j], j below WIDTH; stream_width past the caches, from a line's begin on.
copy_width: Callable[..., None] = intrinsic(_copy(False))
stream_width: Callable[..., None] = intrinsic(_copy(True))
