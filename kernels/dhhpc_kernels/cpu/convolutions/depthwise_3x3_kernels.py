"""The inner loops of depthwise convolution by 3x3 taps, emitted as LLVM vector code.

They go through a plane by blocks of rows and vectors, all nine factors in registers. What vectors read beyond
the ends of a row is masked; of rows beyond the plane, a row of zeros is read.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.convolutions.lanes import Lanes
from dhhpc_kernels.cpu.microkernel import LANES, LINE, index
from dhhpc_kernels.cpu.vectors import Value

BLOCK_ROWS = 2  # of the target: with more, memory is read in pieces that lie farther apart
_WIDTH = 2  # vectors of a block, often a cache line
_SIDE = 3
TAPS = _SIDE**2

_PAIR = types.UniTuple(types.int64, 2)
_MASK = ir.VectorType(ir.IntType(32), LANES)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_ALL = ir.Constant(_MASK, [-1] * LANES)


def _every_second(odd: int) -> list[int]:
    """Which lanes of two vectors: every second, within each 128 bits, as one instruction takes them."""
    return [
        half + quarter + 2 * i + odd for quarter in range(0, LANES, 4) for half in (0, LANES) for i in (0, 1)
    ]


# Where lane j of 0, 1, 2, ... is in the order of _every_second.
_IN_ORDER = [_every_second(0).index(2 * j) for j in range(LANES)]
_OUT_OF_ORDER = [place // 2 for place in _every_second(0)]


class _Planes(Lanes):
    """Vectors of a plane's pixels."""

    def only_if(self, wanted: Value, mask: Value) -> Value:
        """The mask, or one of all lanes."""
        return self.builder.select(wanted, mask, _ALL)

    def masked(self, vector: Value, mask: Value) -> Value:
        """Zeros in the lanes that are not in the mask."""
        return self.builder.bitcast(self.builder.and_(self.builder.bitcast(vector, _MASK), mask), _VECTOR)

    def behind(self, pointer: Value, floats: Value | int) -> Value:
        return self.builder.gep(pointer, [index(floats) if isinstance(floats, int) else floats])

    def row(self, plane: Value, row: Value, width: Value) -> Value:
        return self.behind(plane, self.builder.mul(row, width))

    def rows_around(
        self, plane: Value, size: tuple[Value, Value], first: Value, count: int, zeros: Value
    ) -> list[Value]:
        """So many rows of a plane, of which only the first and the last may be outside: those are zeros."""
        rows, width = size
        lines = [self.row(plane, self.builder.add(first, index(i)), width) for i in range(count)]
        above = self.builder.icmp_signed("<", first, index(0))
        below = self.builder.icmp_signed(">=", self.builder.add(first, index(count - 1)), rows)
        lines[0] = self.builder.select(above, zeros, lines[0])
        lines[-1] = self.builder.select(below, zeros, lines[-1])
        return lines

    def pixels(self, line: Value, start: Value, step: int, left: Value, right: Value) -> list[Value]:
        """A row's pixels for each of its taps, from column `start` of the target on.

        The masks are for what is left of the first tap's pixels and right of the last one's. At step 2 lanes
        are in the order of _every_second.
        """
        here = self.row(line, start, index(step))
        before, after = self.behind(here, -1), self.behind(here, 1)
        first = self.masked(self.load(before), left)
        if step == 1:
            return [first, self.load(here), self.masked(self.load(after), right)]
        second = self.load(self.behind(before, LANES))
        pair = self.load(here), self.masked(self.load(self.behind(here, LANES)), right)
        return [
            self.shuffle(first, second, _every_second(0)),
            *(self.shuffle(*pair, _every_second(odd)) for odd in (0, 1)),
        ]


def _without(lane: int) -> Value:
    """The mask of all lanes but one."""
    lanes = [-1] * LANES
    lanes[lane] = 0
    return ir.Constant(_MASK, lanes)


def _correlate(step: int) -> Callable[..., tuple[Any, Any]]:
    def correlate(
        typing_context: Any,
        source: Any,
        size: Any,
        factors: Any,
        initial: Any,
        target: Any,
        target_size: Any,
        zeros: Any,
    ) -> tuple[Any, Any]:
        """target[y, x] = initial + sum over r, s of factors[3*r + s] * source[y*step + r-1, x*step + s-1].

        All are floats at places; sizes are (rows, columns), the target's at least (BLOCK_ROWS, LANES). One
        float before the source and one behind it are read. zeros: as many as a row of the source, and one on
        either side.
        """
        numbers = (types.int64, _PAIR, types.int64, types.float32, types.int64, _PAIR, types.int64)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, size, factors, initial, target, target_size, zeros = arguments
            emit = _Planes(builder)
            source, factors, target, zeros = (emit.at(place) for place in (source, factors, target, zeros))
            height, width = (builder.extract_value(size, i) for i in (0, 1))
            rows, columns = (builder.extract_value(target_size, i) for i in (0, 1))
            last_start = builder.sub(columns, index(LANES))
            initial = emit.broadcast(initial)
            factor = [emit.broadcast(builder.load(emit.behind(factors, k))) for k in range(TAPS)]

            def emit_vector(lines: list[Value], row: Value, start: Value, left: Value, right: Value) -> None:
                sums = [initial] * BLOCK_ROWS
                for i, line in enumerate(lines):
                    vectors = emit.pixels(line, start, step, left, right)
                    for y in range(BLOCK_ROWS):
                        r = i - y * step
                        if 0 <= r < _SIDE:
                            for s, vector in enumerate(vectors):
                                sums[y] = emit.fused(factor[_SIDE * r + s], vector, sums[y])
                for y, value in enumerate(sums):
                    if step == 2:
                        value = emit.shuffle(value, value, _IN_ORDER)
                    line = emit.row(target, builder.add(row, index(y)), columns)
                    emit.store(value, emit.behind(line, start))

            def emit_block(row: Value, column: Value, vectors: int) -> None:
                # What is beyond the columns is computed by vectors that overlap their neighbours.
                column = emit.smallest(column, last_start)
                last = emit.smallest(builder.add(column, index(LANES * (vectors - 1))), last_start)
                end = builder.add(builder.mul(builder.add(last, index(LANES - 1)), index(step)), index(2))
                left = emit.only_if(builder.icmp_signed("==", column, index(0)), _without(0))
                right = emit.only_if(builder.icmp_signed(">", end, width), _without(-1))
                first_row = builder.sub(builder.mul(row, index(step)), index(1))
                count = (BLOCK_ROWS - 1) * step + _SIDE
                lines = emit.rows_around(source, (height, width), first_row, count, zeros)
                for v in range(vectors):
                    start = last if v == vectors - 1 else builder.add(column, index(LANES * v))
                    masks = left if v == 0 else _ALL, right if v == vectors - 1 else _ALL
                    emit_vector(lines, row, start, *masks)
                for i in range(BLOCK_ROWS * step):  # of the next block
                    line = emit.row(source, builder.add(first_row, index(count + i)), width)
                    line = emit.row(line, column, index(step))
                    for start in range(0, vectors * LANES * step, LINE):
                        emit.prefetch(emit.behind(line, start))

            def emit_rows(row: Value) -> None:
                whole = builder.sub(columns, index(LANES * (_WIDTH - 1)))
                emit.steps(whole, LANES * _WIDTH, lambda column: emit_block(row, column, _WIDTH))
                rest = builder.srem(builder.sub(columns, index(1)), index(LANES * _WIDTH))
                with builder.if_then(builder.icmp_signed("<", rest, index(LANES * (_WIDTH - 1)))):
                    emit_block(row, columns, 1)

            emit.blocks(rows, BLOCK_ROWS, emit_rows)
            return context.get_dummy_value()

        return types.void(*numbers), generate

    return correlate


def _spread(
    typing_context: Any, source: Any, size: Any, factors: Any, initial: Any, target: Any, zeros: Any
) -> tuple[Any, Any]:
    """The gradient by x at stride 2: target, of twice as many rows and columns, from the source.

    With p the source's pixel and q, r and s those behind it, below it and across from it, the target's four
    are the sums of initial and f0*p; f1*p + f2*q; f3*p + f4*r; f5*p + f6*q + f7*r + f8*s. All are floats at
    places; the rest is as for `correlate_1`.
    """
    numbers = (types.int64, _PAIR, types.int64, types.float32, types.int64, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, size, factors, initial, target, zeros = arguments
        emit = _Planes(builder)
        source, factors, target, zeros = (emit.at(place) for place in (source, factors, target, zeros))
        rows, columns = (builder.extract_value(size, i) for i in (0, 1))
        width, last = builder.mul(columns, index(2)), builder.sub(columns, index(LANES))
        initial = emit.broadcast(initial)
        factor = [emit.broadcast(builder.load(emit.behind(factors, k))) for k in range(TAPS)]

        def sum_taps(first: int, *pixels: Value) -> Value:
            total = initial
            for tap, vector in enumerate(pixels, first):
                total = emit.fused(factor[tap], vector, total)
            return total

        def emit_row(row: Value) -> None:
            lines = emit.rows_around(source, (rows, columns), row, 2, zeros)
            out = emit.row(target, row, builder.mul(width, index(2)))

            def emit_vector(start: Value) -> None:
                start = emit.smallest(start, last)
                right = emit.only_if(builder.icmp_signed("==", start, last), _without(-1))
                here, below = (emit.load(emit.behind(line, start)) for line in lines)
                behind, across = (
                    emit.masked(emit.load(emit.behind(line, builder.add(start, index(1)))), right)
                    for line in lines
                )
                even = sum_taps(0, here), sum_taps(1, here, behind)
                odd = sum_taps(3, here, below), sum_taps(5, here, behind, below, across)
                place = emit.row(out, start, index(2))
                for line, sums in ((place, even), (emit.behind(place, width), odd)):
                    two_rows = emit.row(line, index(2), width)
                    for half, value in enumerate(emit.zip(sums)):
                        emit.store(value, emit.behind(line, half * LANES))
                        if half * LANES % LINE == 0:
                            emit.prefetch(emit.behind(two_rows, half * LANES), write=True)
                two_rows = emit.row(source, builder.add(row, index(2)), columns)
                emit.prefetch(emit.behind(two_rows, start))

            emit.steps(columns, LANES, emit_vector)

        emit.steps(rows, 1, emit_row)
        return context.get_dummy_value()

    return types.void(*numbers), generate


def _sum_products(step: int) -> Callable[..., tuple[Any, Any]]:
    def sum_products(
        typing_context: Any,
        gradient: Any,
        gradient_size: Any,
        first: Any,
        count: Any,
        source: Any,
        size: Any,
        sums: Any,
        zeros: Any,
    ) -> tuple[Any, Any]:
        """sums[LANES * (3*r + s)] += sum of gradient[y, x] * source[y*step + r-1, x*step + s-1] over y, x.

        y is one of `count` rows from `first` on. Each lane is summed by itself. The gradient has more than
        LANES columns; all else is as for `correlate_1`.
        """
        numbers = (types.int64, _PAIR, *[types.int64] * 3, _PAIR, types.int64, types.int64)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            gradient, gradient_size, first, count, source, size, sums, zeros = arguments
            emit = _Planes(builder)
            gradient, source, sums, zeros = (emit.at(place) for place in (gradient, source, sums, zeros))
            columns = builder.extract_value(gradient_size, 1)
            height, width = (builder.extract_value(size, i) for i in (0, 1))
            last = builder.sub(columns, index(LANES))
            # The row's last vector overlaps the one before, but no pixel may be summed twice.
            rest = builder.srem(builder.sub(columns, index(1)), index(LANES))
            lanes = ir.Constant(_VECTOR, [float(LANES - 1 - lane) for lane in range(LANES)])
            most = emit.broadcast(builder.sitofp(rest, _VECTOR.element))
            fresh = builder.sext(builder.fcmp_ordered("<=", lanes, most), _MASK)
            end = builder.add(builder.mul(builder.sub(columns, index(1)), index(step)), index(2))
            right = emit.only_if(builder.icmp_signed(">", end, width), _without(-1))

            def sum_row(i: Value, totals: list[Value]) -> list[Value]:
                y = builder.add(first, i)
                line = emit.row(gradient, y, columns)
                first_row = builder.sub(builder.mul(y, index(step)), index(1))
                lines = emit.rows_around(source, (height, width), first_row, _SIDE, zeros)

                def sum_vector(
                    x: Value,
                    totals: list[Value],
                    counted: Value = _ALL,
                    left: Value = _ALL,
                    right: Value = _ALL,
                ) -> list[Value]:
                    vector = emit.masked(emit.load(emit.behind(line, x)), counted)
                    if step == 2:
                        vector = emit.shuffle(vector, vector, _OUT_OF_ORDER)
                    pixels = [
                        p for source_line in lines for p in emit.pixels(source_line, x, step, left, right)
                    ]
                    return [emit.fused(vector, p, total) for p, total in zip(pixels, totals, strict=True)]

                totals = sum_vector(index(0), totals, left=_without(0))
                inner = builder.sub(last, index(LANES))
                totals = emit.loop(
                    inner, LANES, totals, lambda i, sums: sum_vector(builder.add(i, index(LANES)), sums)
                )
                return sum_vector(last, totals, counted=fresh, right=right)

            totals = emit.loop(count, 1, [ir.Constant(_VECTOR, None)] * TAPS, sum_row)
            for k, total in enumerate(totals):
                place = emit.behind(sums, k * LANES)
                emit.store(emit.add(emit.load(place), total), place)
            return context.get_dummy_value()

        return types.void(*numbers), generate

    return sum_products


correlate_1: Callable[..., None] = intrinsic(_correlate(1))
correlate_2: Callable[..., None] = intrinsic(_correlate(2))
spread_2: Callable[..., None] = intrinsic(_spread)
sum_products_1: Callable[..., None] = intrinsic(_sum_products(1))
sum_products_2: Callable[..., None] = intrinsic(_sum_products(2))
