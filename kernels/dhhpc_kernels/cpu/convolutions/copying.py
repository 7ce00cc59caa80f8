"""Copying runs of floats: Numba's own copies of slices count references, which costs more than short runs."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import LANES, Emitter, index

_FLOATS = types.Array(types.float32, 1, "C")
_SHORT = 16 * LANES  # floats: to call memcpy takes longer than to copy so few of them


def emit_copy(builder: ir.IRBuilder, target: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Copy `count` floats; of short runs whole vectors, the last of which overlaps the one before."""
    last = builder.sub(count, index(LANES))
    vectors = builder.icmp_unsigned("<=", last, index(_SHORT - LANES))  # nor are they fewer than LANES
    with builder.if_else(vectors) as (short, long):
        with short:
            emit = Emitter(builder)

            def copy(place: ir.Value) -> None:
                emit.store(emit.load(builder.gep(source, [place])), builder.gep(target, [place]))

            with cgutils.for_range_slice(builder, index(0), last, index(LANES), index(0).type) as (place, _):
                copy(place)
            copy(last)
        with long:
            cgutils.raw_memcpy(builder, target, source, count, 4)


def _copy_floats(
    typing_context: Any, source: Any, start: Any, target: Any, place: Any, count: Any
) -> tuple[Any, Any]:
    """target[place + i] = source[start + i] for i below count; the two runs must not overlap."""
    signature = types.void(_FLOATS, types.int64, _FLOATS, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, start, target, place, count = arguments
        make = context.make_array(_FLOATS)
        read = builder.gep(make(context, builder, source).data, [start])
        written = builder.gep(make(context, builder, target).data, [place])
        emit_copy(builder, written, read, count)
        return context.get_dummy_value()

    return signature, generate


copy_floats: Callable[..., None] = intrinsic(_copy_floats)
