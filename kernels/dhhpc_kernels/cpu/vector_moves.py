"""Moving floats as whole vectors: fixed lengths, every second float, turned squares, past the caches."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import (
    COLUMNS,
    FLOATS,
    HEIGHT,
    INDICES,
    LANES,
    ROWS,
    WIDTH,
    Emitter,
    index,
    pointer_at,
)
from dhhpc_kernels.cpu.vectors import Vectors

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_LANE = ir.IntType(32)
_MASK = ir.VectorType(_LANE, LANES)


def _transpose(
    typing_context: Any, source: Any, place: Any, pitch: Any, target: Any, start: Any, target_pitch: Any
) -> tuple[Any, Any]:
    """target[start + j*target_pitch + i] = source[place + i*pitch + j], i and j below LANES."""
    signature = types.void(FLOATS, types.int64, types.int64, FLOATS, types.int64, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, place, pitch, target, start, target_pitch = arguments
        emit = Emitter(builder)
        source = pointer_at(context, builder, signature.args[0], source, place)
        target = pointer_at(context, builder, signature.args[3], target, start)
        rows = [emit.load(builder.gep(source, [builder.mul(pitch, index(i))])) for i in range(LANES)]
        size = LANES // 2
        while size:  # swap the off-diagonal quarters of every square of 2 * size
            for i in range(LANES):
                if not i & size:
                    upper, lower = rows[i], rows[i + size]
                    first = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
                    second = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
                    rows[i], rows[i + size] = (
                        emit.shuffle(upper, lower, first),
                        emit.shuffle(upper, lower, second),
                    )
            size //= 2
        for i, row in enumerate(rows):
            emit.store(row, builder.gep(target, [builder.mul(target_pitch, index(i))]))
        return context.get_dummy_value()

    return signature, generate


def _copy(count: int, past_caches: bool = False) -> Callable[..., tuple[Any, Any]]:
    def copy(typing_context: Any, source: Any, place: Any, target: Any, start: Any) -> tuple[Any, Any]:
        signature = types.void(FLOATS, types.int64, FLOATS, types.int64)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, place, target, start = arguments
            source = pointer_at(context, builder, signature.args[0], source, place)
            target = pointer_at(context, builder, signature.args[2], target, start)
            for i in range(0, count, LANES):
                vector = ir.VectorType(_FLOAT, min(LANES, count - i)).as_pointer()
                value = builder.load(builder.bitcast(builder.gep(source, [index(i)]), vector), align=4)
                there = builder.gep(target, [index(i)])
                if past_caches:
                    Vectors(builder).stream(value, there)
                else:
                    builder.store(value, builder.bitcast(there, vector), align=4)
            return context.get_dummy_value()

        return signature, generate

    return copy


def _turn(height: int) -> Callable[..., tuple[Any, Any]]:
    def turn(
        typing_context: Any,
        source: Any,
        place: Any,
        pitch: Any,
        offsets: Any,
        target: Any,
        starts: Any,
        steps: Any,
        number: Any,
        count: Any,
    ) -> tuple[Any, Any]:
        signature = types.void(
            FLOATS, types.int64, types.int64, INDICES, FLOATS, INDICES, INDICES, types.int64, types.int64
        )

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, place, pitch, offsets, target, starts, steps, number, count = arguments
            kinds = signature.args
            source = pointer_at(context, builder, kinds[0], source, place)
            target = pointer_at(context, builder, kinds[4], target, index(0))
            offsets, starts, steps = (
                pointer_at(context, builder, INDICES, table, index(0)) for table in (offsets, starts, steps)
            )
            rows = [builder.gep(source, [builder.mul(pitch, index(i))]) for i in range(height)]
            vector = ir.VectorType(_FLOAT, height)
            with cgutils.for_range(builder, count) as loop:
                offset, start, step = (
                    builder.load(builder.gep(table, [loop.index])) for table in (offsets, starts, steps)
                )
                turned = ir.Constant(vector, ir.Undefined)
                for i, row in enumerate(rows):
                    value = builder.load(builder.gep(row, [offset]))
                    turned = builder.insert_element(turned, value, ir.Constant(_LANE, i))
                there = builder.gep(target, [builder.add(start, builder.mul(number, step))])
                builder.store(turned, builder.bitcast(there, vector.as_pointer()), align=4)
            return context.get_dummy_value()

        return signature, generate

    return turn


def _copy_runs(step: int) -> Callable[..., tuple[Any, Any]]:
    def copy(
        typing_context: Any,
        source: Any,
        base: Any,
        runs: Any,
        first: Any,
        last: Any,
        target: Any,
        line: Any,
        later: Any,
    ) -> tuple[Any, Any]:
        """Of runs first to last: target[line + place + i] = source[base + begin + i*step], or 0.

        i below LANES; it is 0 unless inside + i >= LANES. What lies at `later` in place of base is fetched.
        """
        signature = types.void(
            FLOATS, types.int64, INDICES, types.int64, types.int64, FLOATS, types.int64, types.int64
        )

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            values, base, runs, first, last, target, line, later = arguments
            emit = Vectors(builder)
            source = pointer_at(context, builder, FLOATS, values, base)
            later = pointer_at(context, builder, FLOATS, values, later)
            target = pointer_at(context, builder, FLOATS, target, line)
            table = pointer_at(context, builder, INDICES, runs, index(0))
            kind = ir.ArrayType(ir.IntType(32), 2 * LANES)
            lanes = ir.Constant(kind, [0] * LANES + [-1] * LANES)
            masks = cgutils.global_constant(builder, "inside_lanes", lanes)
            with cgutils.for_range_slice(builder, first, last, index(1), index(0).type) as (run, _):
                row = builder.gep(table, [builder.mul(run, index(3))])
                begin, place, inside = (builder.load(builder.gep(row, [index(i)])) for i in range(3))
                here = builder.gep(source, [begin])
                emit.prefetch(builder.gep(later, [begin]))
                value = emit.unzip([emit.load(builder.gep(here, [index(v * LANES)])) for v in range(step)])[0]
                mask = builder.bitcast(builder.gep(masks, [index(0), inside]), _MASK.as_pointer())
                kept = builder.and_(builder.bitcast(value, _MASK), builder.load(mask, align=4))
                emit.store(builder.bitcast(kept, _VECTOR), builder.gep(target, [place]))
            return context.get_dummy_value()

        return signature, generate

    return copy


def _copy_second(typing_context: Any, source: Any, place: Any, target: Any, start: Any) -> tuple[Any, Any]:
    """target[start + i] = source[place + 2*i], i below LANES."""
    signature = types.void(FLOATS, types.int64, FLOATS, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, place, target, start = arguments
        emit = Vectors(builder)
        source = pointer_at(context, builder, signature.args[0], source, place)
        values, _ = emit.unzip([emit.load(source), emit.load(builder.gep(source, [index(LANES)]))])
        emit.store(values, pointer_at(context, builder, signature.args[2], target, start))
        return context.get_dummy_value()

    return signature, generate


def _copy_where(
    typing_context: Any, source: Any, place: Any, mask: Any, at: Any, target: Any, start: Any
) -> tuple[Any, Any]:
    """target[start + i] = source[place + i] where mask[at + i] is not 0, else 0, i below LANES."""
    signature = types.void(FLOATS, types.int64, FLOATS, types.int64, FLOATS, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, place, mask, at, target, start = arguments
        emit = Emitter(builder)
        zeros = ir.Constant(_VECTOR, None)
        value = emit.load(pointer_at(context, builder, signature.args[0], source, place))
        wanted = emit.load(pointer_at(context, builder, signature.args[2], mask, at))
        value = builder.select(builder.fcmp_ordered("!=", wanted, zeros), value, zeros)
        emit.store(value, pointer_at(context, builder, signature.args[4], target, start))
        return context.get_dummy_value()

    return signature, generate


def _move(past_caches: bool) -> Callable[..., tuple[Any, Any]]:
    def move(
        typing_context: Any, source: Any, place: Any, add: Any, target: Any, start: Any
    ) -> tuple[Any, Any]:
        signature = types.void(FLOATS, types.int64, types.float32, FLOATS, types.int64)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, place, add, target, start = arguments
            emit = Vectors(builder)
            value = emit.load(pointer_at(context, builder, FLOATS, source, place))
            value = emit.add(value, emit.broadcast(add))
            (emit.stream if past_caches else emit.store)(
                value, pointer_at(context, builder, FLOATS, target, start)
            )
            return context.get_dummy_value()

        return signature, generate

    return move


def _interleave(
    typing_context: Any, source: Any, first: Any, second: Any, add: Any, target: Any, start: Any
) -> tuple[Any, Any]:
    """target[start + 2*i] = source[first + i] + add, target[start + 2*i + 1] = source[second + i] + add.

    i below LANES.
    """
    signature = types.void(FLOATS, types.int64, types.int64, types.float32, FLOATS, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, first, second, add, target, start = arguments
        emit = Vectors(builder)
        added = emit.broadcast(add)
        values = [
            emit.add(emit.load(pointer_at(context, builder, signature.args[0], source, place)), added)
            for place in (first, second)
        ]
        target = pointer_at(context, builder, signature.args[4], target, start)
        for half, value in enumerate(emit.zip(values)):
            emit.store(value, builder.gep(target, [index(half * LANES)]))
        return context.get_dummy_value()

    return signature, generate


def _interleave_squares(
    typing_context: Any,
    source: Any,
    upper_left: Any,
    upper_right: Any,
    lower_left: Any,
    lower_right: Any,
    add: Any,
    target: Any,
    start: Any,
    rows: Any,
    columns: Any,
) -> tuple[Any, Any]:
    """Squares of 2x2 pixels, each from a place of its own: target[start + (2*y + r)*2*columns + 2*x + s]
    = source[place of (r, s) + y*columns + x] + add, y below rows and x below columns.

    Of fewer columns than LANES, 2 * (LANES - columns) floats behind the squares are overwritten.
    """
    signature = types.void(FLOATS, *[types.int64] * 4, types.float32, FLOATS, *[types.int64] * 3)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, *places, add, target, start, rows, columns = arguments
        emit = Vectors(builder)
        added = emit.broadcast(add)
        sources = [pointer_at(context, builder, FLOATS, source, place) for place in places]
        target = pointer_at(context, builder, FLOATS, target, start)
        width, last = builder.mul(columns, index(2)), builder.sub(columns, index(LANES))
        last = builder.select(builder.icmp_signed("<", last, index(0)), index(0), last)

        with cgutils.for_range(builder, rows) as loop:
            before = builder.mul(loop.index, columns)
            upper = builder.gep(target, [builder.mul(builder.mul(before, index(2)), index(2))])
            lines = upper, builder.gep(upper, [width])

            def interleave(x: ir.Value) -> None:
                place = builder.add(before, x)
                values = [emit.add(emit.load(builder.gep(pointer, [place])), added) for pointer in sources]
                for line, pair in zip(lines, (values[:2], values[2:]), strict=True):
                    there = builder.gep(line, [builder.mul(x, index(2))])
                    for half, value in enumerate(emit.zip(pair)):
                        emit.store(value, builder.gep(there, [index(half * LANES)]))

            with cgutils.for_range_slice(builder, index(0), last, index(LANES), index(0).type) as (x, _):
                interleave(x)
            interleave(last)  # overlaps the one before
        return context.get_dummy_value()

    return signature, generate


def _prefetch(typing_context: Any, source: Any, place: Any) -> tuple[Any, Any]:
    """Have the line of source[place] brought to the first-level cache; any place will do."""
    signature = types.void(FLOATS, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, place = arguments
        Vectors(builder).prefetch(pointer_at(context, builder, signature.args[0], source, place))
        return context.get_dummy_value()

    return signature, generate


prefetch: Callable[..., None] = intrinsic(_prefetch)
transpose: Callable[..., None] = intrinsic(_transpose)
# target[start + i] = source[place + i], i below ROWS, LANES, COLUMNS, HEIGHT or WIDTH
copy_rows: Callable[..., None] = intrinsic(_copy(ROWS))
copy_lanes: Callable[..., None] = intrinsic(_copy(LANES))
copy_columns: Callable[..., None] = intrinsic(_copy(COLUMNS))
copy_height: Callable[..., None] = intrinsic(_copy(HEIGHT))
copy_width: Callable[..., None] = intrinsic(_copy(WIDTH))
# The same past the caches; the target begins with a line of the cache.
stream_width: Callable[..., None] = intrinsic(_copy(WIDTH, past_caches=True))
# target[starts[k] + number*steps[k] + i] = source[place + offsets[k] + i*pitch], k below count, i below ROWS
# or HEIGHT
turn_rows: Callable[..., None] = intrinsic(_turn(ROWS))
turn_height: Callable[..., None] = intrinsic(_turn(HEIGHT))
# Runs at a step of 1 or 2 floats
copy_runs: Callable[..., None] = intrinsic(_copy_runs(1))
copy_second_runs: Callable[..., None] = intrinsic(_copy_runs(2))
copy_second: Callable[..., None] = intrinsic(_copy_second)
copy_where: Callable[..., None] = intrinsic(_copy_where)
# target[start + i] = source[place + i] + add, i below LANES
move: Callable[..., None] = intrinsic(_move(past_caches=False))
# The same past the caches; the target's address is a multiple of the vector's size.
stream: Callable[..., None] = intrinsic(_move(past_caches=True))
interleave: Callable[..., None] = intrinsic(_interleave)
interleave_squares: Callable[..., None] = intrinsic(_interleave_squares)
