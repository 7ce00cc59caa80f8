"""The inner loops of depthwise convolution, emitted as LLVM vector code.

A block's sums are of pixels alone, some rows of some vectors. With taps one below the other, each line of
pixels that is loaded serves several rows of sums; with any others, each load is one multiply-add's operand.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.convolutions.memory_places import Lanes
from dhhpc_kernels.cpu.microkernel import LANES, index
from dhhpc_kernels.target import vector_registers

_REGISTERS = vector_registers()[1]
TALL = 3  # taps below each other that are summed at once


def _blocks(
    taps: int, step: int, phases: int, widths: Sequence[int], rows: int
) -> tuple[tuple[int, ...], ...]:
    """Blocks of so many rows, as registers hold the sums, the taps' factors and what is loaded."""
    rows = min(rows, (_REGISTERS - 1 - taps) // (widths[0] * phases))
    return tuple((taps, step, phases, vectors, rows) for vectors in widths)


# The blocks of `sum_taps`, as (taps at once, their step, phases, vectors of a row, rows). Those of a kind are
# from KINDS[kind] up to KINDS[kind + 1], from wide to narrow. The addresses of more than 7 rows would lack
# registers.
TALL_WIDE, TALL_NARROW, TALL_STRIDED, WIDE, NARROW, ROW, PAIRS, PAIRS_ROW = range(8)
_KINDS = (
    _blocks(TALL, 1, 1, (2, 1), 7),
    _blocks(TALL, 1, 1, (1,), 7),
    _blocks(TALL, 2, 1, (2, 1), 7),
    _blocks(1, 1, 1, (4, 2, 1), 7),
    _blocks(1, 1, 1, (2, 1), 7),
    _blocks(1, 1, 1, (7, 4, 2, 1), 1),
    _blocks(1, 1, 2, (2, 1), 7),
    _blocks(1, 1, 2, (2, 1), 1),
)
BLOCKS = sum(_KINDS, ())
# Arrays, for to look up a place of a tuple that is only known later takes as long as to sum a row of pixels.
KINDS = np.array(list(itertools.accumulate(map(len, _KINDS), initial=0)))
BLOCK_VECTORS, BLOCK_ROWS = (np.array([block[place] for block in BLOCKS]) for place in (3, 4))

TAPS = 9  # whose products `sum_products` sums at once: those of a 3x3 kernel, each with an address of its own

_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)

Value = Any


class _Loops(Lanes):
    """Loops that sum vectors."""

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c."""
        return self.builder.call(self.multiply_add, [a, b, c])

    def loop(
        self,
        count: Value,
        step: int,
        sums: Sequence[Value],
        body: Callable[[Value, list[Value]], list[Value]],
    ) -> list[Value]:
        """The vectors after sums = body(i, sums) for i = 0, step, ... below count, which may be 0."""
        builder = self.builder
        before = builder.block
        loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed(">", count, index(0)), loop, after)
        builder.position_at_end(loop)
        i = builder.phi(_INDEX)
        inside = [builder.phi(_VECTOR) for _ in sums]
        updated = body(i, inside)
        following = builder.add(i, index(step))
        end = builder.block  # the body may hold a loop
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        i.add_incoming(index(0), before)
        i.add_incoming(following, end)
        builder.position_at_end(after)
        results = []
        for value, first, new in zip(inside, sums, updated, strict=True):
            value.add_incoming(first, before)
            value.add_incoming(new, end)
            result = builder.phi(_VECTOR)
            result.add_incoming(first, before)
            result.add_incoming(new, end)
            results.append(result)
        return results


def _sum_taps(
    typing_context: Any,
    block: Any,
    factors: Any,
    offsets: Any,
    count: Any,
    more: Any,
    initial: Any,
    source: Any,
    row_step: Any,
    target: Any,
    pitch: Any,
    last: Any,
) -> tuple[Any, Any]:
    """target[i*pitch + j] = initial + sum over k of factors[k] * source[i*row_step + offsets[k] + j].

    All are floats at places but the offsets, int64. k is below count. With (taps, step, phases, vectors,
    rows) = BLOCKS[block], i is below rows, and j in the vectors at 0, LANES, ..., `last`. Of every `taps`
    offsets the others must follow the first row_step / step apart. With two phases, that result goes to
    column 2*j, and to the one behind it that of the `more` taps which follow.
    """
    numbers = [types.int64] * 5
    signature = types.void(*numbers, types.float32, *numbers)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        block, factors, offsets, count, more, initial, source, row_step, target, pitch, last = arguments
        emit = _Loops(builder)
        factors, offsets = emit.at(factors), emit.at(offsets, _INDEX)
        source, target = emit.at(source), emit.at(target)
        initial = emit.broadcast(initial)

        def sum_phase(
            taps: int,
            step: int,
            columns: list[Value],
            rows: int,
            factors: Value,
            offsets: Value,
            count: Value,
        ) -> list[Value]:
            line_step = builder.sdiv(row_step, index(step))

            def body(k: Value, sums: list[Value]) -> list[Value]:
                factor = [
                    emit.broadcast(builder.load(builder.gep(factors, [builder.add(k, index(r))])))
                    for r in range(taps)
                ]
                line = builder.gep(source, [builder.load(builder.gep(offsets, [k]))])
                sums = list(sums)
                for i in range((rows - 1) * step + taps):
                    for v, column in enumerate(columns):
                        pixels = emit.load(builder.gep(line, [column]))
                        for r in range(taps):
                            row, rest = divmod(i - r, step)
                            if rest == 0 and 0 <= row < rows:
                                here = row * len(columns) + v
                                sums[here] = emit.fused(factor[r], pixels, sums[here])
                    line = builder.gep(line, [line_step])
                return sums

            return emit.loop(count, taps, [initial] * (rows * len(columns)), body)

        def emit_block(taps: int, step: int, phases: int, vectors: int, rows: int) -> None:
            columns = [*(index(LANES * v) for v in range(vectors - 1)), last]
            results = [sum_phase(taps, step, columns, rows, factors, offsets, count)]
            if phases == 2:
                behind = builder.gep(factors, [count]), builder.gep(offsets, [count])
                results.append(sum_phase(taps, step, columns, rows, behind[0], behind[1], more))
            line = target
            for i in range(rows):
                for v, column in enumerate(columns):
                    place = builder.gep(line, [builder.mul(column, index(phases))])
                    for value in emit.zip([sums[i * vectors + v] for sums in results]):
                        emit.store(value, place)
                        place = builder.gep(place, [index(LANES)])
                line = builder.gep(line, [pitch])

        done = builder.append_basic_block("done")
        choice = builder.switch(block, done)
        for number, sizes in enumerate(BLOCKS):
            this = builder.append_basic_block("block")
            choice.add_case(index(number), this)
            builder.position_at_end(this)
            emit_block(*sizes)
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
        emit = _Loops(builder)
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
