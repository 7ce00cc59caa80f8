"""The inner loops of depthwise convolution, emitted as LLVM vector code.

A block's sums are of pixels alone, some rows of some vectors; each load is one multiply-add's operand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.convolutions.lanes import Lanes
from dhhpc_kernels.cpu.microkernel import LANES, LINE, REGISTERS, index
from dhhpc_kernels.cpu.vectors import Value


class _Kind(NamedTuple):
    """How `sum_taps` goes through a tile: by blocks of so many rows, of `widths[0]` vectors or fewer."""

    phases: int
    widths: tuple[int, ...]  # then the powers of two below the first, for what is left of a row
    rows: int


def _kind(phases: int, widths: tuple[int, ...], rows: int) -> _Kind:
    """With the rows that registers have room for, beside a tap's factor and what is loaded."""
    return _Kind(phases, widths, min(rows, (REGISTERS - 2) // (widths[0] * phases)))


# The addresses of more than 7 rows would lack registers.
WIDE, NARROW, ROW, PAIRS, PAIRS_ROW = range(5)
_KINDS = (
    _kind(1, (4, 2, 1), 7),
    _kind(1, (2, 1), 7),
    _kind(1, (7, 4, 2, 1), 1),
    _kind(2, (2, 1), 7),
    _kind(2, (2, 1), 1),
)
# An array: to look up a place of a tuple that is only known later takes as long as to sum a row of pixels.
BLOCK_ROWS = np.array([kind.rows for kind in _KINDS])

TAPS = 9  # whose products `sum_products` sums at once: those of a 3x3 kernel, each with an address of its own

_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _sum_taps(
    typing_context: Any,
    kind: Any,
    rows: Any,
    columns: Any,
    factors: Any,
    offsets: Any,
    count: Any,
    more: Any,
    initial: Any,
    source: Any,
    row_step: Any,
    target: Any,
    pitch: Any,
    ahead: Any,
    ahead_step: Any,
) -> tuple[Any, Any]:
    """target[i*pitch + j] = initial + sum over k of factors[k] * source[i*row_step + offsets[k] + j].

    All are floats at places but the offsets, int64. i is below rows, at least BLOCK_ROWS[kind]; j is below
    columns; fewer than LANES are written LANES wide, each row before the next. k is below count. With
    two phases, that result goes to column 2*j, and to the one behind it that of the `more` taps which follow.

    Meanwhile the target's next rows are asked for, and ahead_step floats a pixel from the place `ahead` on.
    """
    numbers = [types.int64] * 7
    signature = types.void(*numbers, types.float32, *[types.int64] * 6)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind, rows, columns, factors, offsets, count, more, initial, *places = arguments
        source, row_step, target, pitch, ahead, ahead_step = places
        emit = Lanes(builder)
        factors, offsets, ahead = emit.at(factors), emit.at(offsets, _INDEX), emit.at(ahead)
        source, target = emit.at(source), emit.at(target)
        initial = emit.broadcast(initial)
        behind = builder.gep(factors, [count]), builder.gep(offsets, [count])
        vectors = builder.sdiv(builder.add(columns, index(LANES - 1)), index(LANES))

        def sum_phase(
            kind: _Kind, starts: list[Value], source: Value, factors: Value, offsets: Value, count: Value
        ) -> list[Value]:
            def body(k: Value, sums: list[Value]) -> list[Value]:
                factor = emit.broadcast(builder.load(builder.gep(factors, [k])))
                line = builder.gep(source, [builder.load(builder.gep(offsets, [k]))])
                updated = []
                for i in range(kind.rows):
                    for v, start in enumerate(starts):
                        pixels = emit.load(builder.gep(line, [start]))
                        updated.append(emit.fused(factor, pixels, sums[i * len(starts) + v]))
                    line = builder.gep(line, [row_step])
                return updated

            return emit.loop(count, 1, [initial] * (kind.rows * len(starts)), body)

        def emit_block(kind: _Kind, width: int, row: Value, column: Value) -> None:
            # What is beyond the columns is computed by vectors that overlap their neighbours.
            column = emit.largest(index(0), emit.smallest(column, builder.sub(columns, index(LANES))))
            left = emit.smallest(builder.sub(columns, column), index(width * LANES))
            last = emit.largest(index(0), builder.sub(left, index(LANES)))
            starts = [*(index(LANES * v) for v in range(width - 1)), last]
            here = builder.gep(source, [builder.add(builder.mul(row, row_step), column)])
            phases = [sum_phase(kind, starts, here, factors, offsets, count)]
            if kind.phases == 2:
                phases.append(sum_phase(kind, starts, here, *behind, more))
            done = builder.add(builder.mul(row, columns), builder.mul(column, index(kind.rows)))
            begin = builder.gep(ahead, [builder.mul(ahead_step, done)])
            asked = builder.mul(ahead_step, index(kind.rows * width * LANES))
            emit.steps(asked, LINE, lambda i: emit.prefetch(builder.gep(begin, [i])))
            place = builder.add(builder.mul(row, pitch), builder.mul(column, index(kind.phases)))
            line = builder.gep(target, [place])
            next_line = builder.gep(line, [builder.mul(pitch, index(kind.rows))])
            for i in range(kind.rows):
                for v, start in enumerate(starts):
                    place = builder.gep(line, [builder.mul(start, index(kind.phases))])
                    for half, value in enumerate(emit.zip([sums[i * width + v] for sums in phases])):
                        emit.store(value, builder.gep(place, [index(half * LANES)]))
                for start in range(0, width * LANES * kind.phases, LINE):
                    emit.prefetch(builder.gep(next_line, [index(start)]), write=True)
                line, next_line = builder.gep(line, [pitch]), builder.gep(next_line, [pitch])

        def emit_kind(kind: _Kind) -> None:
            widest, *narrower = kind.widths
            rest = builder.srem(vectors, index(widest))
            whole = builder.mul(builder.sub(vectors, rest), index(LANES))

            def emit_rows(row: Value) -> None:
                emit.steps(whole, widest * LANES, lambda column: emit_block(kind, widest, row, column))
                for width in narrower:
                    with builder.if_then(
                        builder.icmp_signed("!=", builder.and_(rest, index(width)), index(0))
                    ):
                        wider = builder.sub(rest, builder.and_(rest, index(2 * width - 1)))
                        column = builder.add(whole, builder.mul(wider, index(LANES)))
                        emit_block(kind, width, row, column)

            emit.blocks(rows, kind.rows, emit_rows)

        done = builder.append_basic_block("done")
        choice = builder.switch(kind, done)
        for number, each in enumerate(_KINDS):
            this = builder.append_basic_block("kind")
            choice.add_case(index(number), this)
            builder.position_at_end(this)
            emit_kind(each)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


def _sum_products(
    typing_context: Any,
    gradient: Any,
    pitch: Any,
    rows: Any,
    columns: Any,
    source: Any,
    row_step: Any,
    offsets: Any,
    sums: Any,
) -> tuple[Any, Any]:
    """sums[LANES*k] += sum over i, j of gradient[i*pitch + j] * source[i*row_step + offsets[k] + j].

    All are floats at places but the offsets, int64. k is below TAPS, i below rows, j below columns rounded up
    to LANES; each lane is summed by itself.
    """
    signature = types.void(*[types.int64] * 8)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        gradient, pitch, rows, columns, source, row_step, offsets, sums = arguments
        emit = Lanes(builder)
        gradient, source, offsets = emit.at(gradient), emit.at(source), emit.at(offsets, _INDEX)
        places = [emit.at(builder.add(sums, index(LANES * k))) for k in range(TAPS)]
        pixels = [builder.gep(source, [builder.load(builder.gep(offsets, [index(k)]))]) for k in range(TAPS)]

        def row(i: Value, totals: list[Value]) -> list[Value]:
            line, first = builder.gep(gradient, [builder.mul(i, pitch)]), builder.mul(i, row_step)

            def vector(j: Value, totals: list[Value]) -> list[Value]:
                factor = emit.load(builder.gep(line, [j]))
                here = builder.add(first, j)
                return [
                    emit.fused(factor, emit.load(builder.gep(pixels[k], [here])), totals[k])
                    for k in range(TAPS)
                ]

            return emit.loop(columns, LANES, totals, vector)

        totals = emit.loop(rows, 1, [ir.Constant(_VECTOR, None)] * TAPS, row)
        for pointer, total in zip(places, totals, strict=True):
            emit.store(builder.fadd(emit.load(pointer), total), pointer)
        return context.get_dummy_value()

    return signature, generate


sum_taps: Callable[..., None] = intrinsic(_sum_taps)
sum_products: Callable[..., None] = intrinsic(_sum_products)
