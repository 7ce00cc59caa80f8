"""Floats at places in memory: addresses counted in floats, as plain integers.

Where a function takes arrays, or tuples that hold some, Numba counts references to them: atomic additions
that take longer than the sums of a small plane. Who works with places has to keep the arrays they lie in.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cpu.convolutions.copying import emit_copy
from dhhpc_kernels.cpu.convolutions.lanes import FLOAT_BYTES, Lanes
from dhhpc_kernels.cpu.microkernel import LANES, index
from dhhpc_kernels.cpu.vectors import Value

_INDEX = ir.IntType(64)
_UNROLLED = 8  # vectors of a row


def _place_of(typing_context: Any, array: Any) -> tuple[Any, Any]:
    """Where an array begins."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.sdiv(builder.ptrtoint(data, _INDEX), index(FLOAT_BYTES))

    return types.int64(array), generate


def _copy_run(typing_context: Any, source: Any, target: Any, count: Any) -> tuple[Any, Any]:
    """Copy `count` floats between runs that do not overlap."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, target, count = arguments
        at = Lanes(builder).at
        emit_copy(builder, at(target), at(source), count)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def _copy_rows(
    typing_context: Any, source: Any, pitch: Any, target: Any, target_pitch: Any, rows: Any, count: Any
) -> tuple[Any, Any]:
    """Copy `count` floats of each of so many rows, from source + i*pitch to target + i*target_pitch."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, pitch, target, target_pitch, rows, count = arguments
        emit = Lanes(builder)
        source, target = emit.at(source), emit.at(target)
        last = builder.sub(count, index(LANES))

        def copy_rows(copy: Callable[[Value, Value], None]) -> None:
            def body(row: Value) -> None:
                here = builder.gep(source, [builder.mul(row, pitch)])
                copy(here, builder.gep(target, [builder.mul(row, target_pitch)]))

            emit.steps(rows, 1, body)

        done, any_count = builder.append_basic_block("done"), builder.append_basic_block("any")
        # A loop over so few vectors takes as long again as to copy them.
        vectors = builder.sdiv(builder.add(last, index(2 * LANES - 1)), index(LANES))
        whole = builder.icmp_signed(">=", last, index(0))
        choice = builder.switch(builder.select(whole, vectors, index(0)), any_count)
        for number in range(1, _UNROLLED + 1):
            this = builder.append_basic_block("vectors")
            choice.add_case(index(number), this)
            builder.position_at_end(this)
            places = [*(index(LANES * v) for v in range(number - 1)), last]

            def copy_vectors(here: Value, there: Value, places: list[Value] = places) -> None:
                for place in places:
                    emit.store(emit.load(builder.gep(here, [place])), builder.gep(there, [place]))

            copy_rows(copy_vectors)
            builder.branch(done)
        builder.position_at_end(any_count)
        copy_rows(lambda here, there: emit_copy(builder, there, here, count))
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _clear_run(typing_context: Any, target: Any, count: Any) -> tuple[Any, Any]:
    """Write `count` zeros."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, count = arguments
        cgutils.memset(builder, Lanes(builder).at(target), builder.mul(count, index(FLOAT_BYTES)), 0)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2), generate


def _copy_every(
    typing_context: Any, source: Any, step: Any, target: Any, target_step: Any, count: Any
) -> tuple[Any, Any]:
    """float at target + i*target_step = float at source + i*step, i below count."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, step, target, target_step, count = arguments
        emit = Lanes(builder)
        source, target = emit.at(source), emit.at(target)

        def body(i: Value) -> None:
            value = builder.load(builder.gep(source, [builder.mul(i, step)]))
            builder.store(value, builder.gep(target, [builder.mul(i, target_step)]))

        emit.steps(count, 1, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def _gather_run(typing_context: Any, source: Any, indices: Any, target: Any, count: Any) -> tuple[Any, Any]:
    """float at target + i = float at source + indices[i], int64 at a place of floats; i below count."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, indices, target, count = arguments
        emit = Lanes(builder)
        source, indices, target = emit.at(source), emit.at(indices, _INDEX), emit.at(target)

        def body(i: Value) -> None:
            value = builder.load(builder.gep(source, [builder.load(builder.gep(indices, [i]))]))
            builder.store(value, builder.gep(target, [i]))

        emit.steps(count, 1, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _unzip_vectors(typing_context: Any, source: Any, target: Any, pitch: Any) -> tuple[Any, Any]:
    """float at target + i*pitch + lane = float at source + 2*lane + i, i below 2."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, target, pitch = arguments
        emit = Lanes(builder)
        pairs = [emit.load(emit.at(builder.add(source, index(LANES * i)))) for i in (0, 1)]
        for i, value in enumerate(emit.unzip(pairs)):
            emit.store(value, emit.at(builder.add(target, builder.mul(pitch, index(i)))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


def _zip_vectors(typing_context: Any, source: Any, pitch: Any, target: Any) -> tuple[Any, Any]:
    """The inverse: float at target + 2*lane + i = float at source + i*pitch + lane, i below 2."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, pitch, target = arguments
        emit = Lanes(builder)
        phases = [emit.load(emit.at(builder.add(source, builder.mul(pitch, index(i))))) for i in (0, 1)]
        for i, value in enumerate(emit.zip(phases)):
            emit.store(value, emit.at(builder.add(target, index(LANES * i))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


place_of: Callable[..., int] = intrinsic(_place_of)
copy_run: Callable[..., None] = intrinsic(_copy_run)
copy_rows: Callable[..., None] = intrinsic(_copy_rows)
gather_run: Callable[..., None] = intrinsic(_gather_run)
clear_run: Callable[..., None] = intrinsic(_clear_run)
copy_every: Callable[..., None] = intrinsic(_copy_every)
unzip_vectors: Callable[..., None] = intrinsic(_unzip_vectors)
zip_vectors: Callable[..., None] = intrinsic(_zip_vectors)
