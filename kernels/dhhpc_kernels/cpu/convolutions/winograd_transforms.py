"""The transforms of Winograd's minimal filtering on vectors of tiles, emitted as LLVM vector code.

Each lane of a vector is one tile, so a transform is a few dozen additions and multiplications of whole
vectors. The matrices are those of Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, 2016)
for 3x3 kernels: tiles of 2x2 results take 4x4 inputs (points 0, 1, -1), tiles of 4x4 take 6x6 (0, 1, -1, 2,
-2).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import LANES, ROWS, Emitter

AHEAD = 4  # channels

Value = Any
Values = Sequence[Any]
Transform = Callable[["Vectors", Values], list[Any]]

_INDEX = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLOATS = types.Array(types.float32, 1, "C")
_INDICES = types.Array(types.int64, 1, "C")


class Vectors(Emitter):
    """Arithmetic on vectors at the place of a builder."""

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def subtract(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def scale(self, factor: float, a: Value) -> Value:
        return self.builder.fmul(ir.Constant(_VECTOR, [factor] * LANES), a)

    def scale_add(self, factor: float, a: Value, b: Value) -> Value:
        """factor * a + b."""
        return self.builder.call(self.multiply_add, [ir.Constant(_VECTOR, [factor] * LANES), a, b])

    def prefetch(self, pointer: Value) -> None:
        """Begin to fetch the cache line of a pointer."""
        flag = ir.IntType(32)
        kinds = [_BYTES, flag, flag, flag]
        fetch = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
        )
        reading, often, data = ir.Constant(flag, 0), ir.Constant(flag, 3), ir.Constant(flag, 1)
        self.builder.call(fetch, [self.builder.bitcast(pointer, _BYTES), reading, often, data])

    def unzip(self, values: Values) -> list[Value]:
        """From 2^n vectors, which hold one sequence, the vectors of every 2^n-th element of it."""
        even, odd = range(0, 2 * LANES, 2), range(1, 2 * LANES, 2)
        if len(values) == 1:
            return list(values)
        pairs = list(zip(values[::2], values[1::2], strict=True))
        first = self.unzip([self.shuffle(a, b, even) for a, b in pairs])
        second = self.unzip([self.shuffle(a, b, odd) for a, b in pairs])
        return [value for both in zip(first, second, strict=True) for value in both]

    def zip(self, values: Values) -> list[Value]:
        """The inverse of `unzip`: the vectors' first elements, then their second ones, and so on."""
        half = LANES // 2
        low = [place for i in range(half) for place in (i, LANES + i)]
        high = [place for i in range(half, LANES) for place in (i, LANES + i)]
        if len(values) == 1:
            return list(values)
        first, second = self.zip(values[::2]), self.zip(values[1::2])
        return [
            self.shuffle(a, b, places) for a, b in zip(first, second, strict=True) for places in (low, high)
        ]


# -- the matrices, applied to the vectors of one row or column -----------------------------------------------


def input_2(v: Vectors, d: Values) -> list[Value]:
    """Transposed B of 2x2 tiles."""
    return [v.subtract(d[0], d[2]), v.add(d[1], d[2]), v.subtract(d[2], d[1]), v.subtract(d[1], d[3])]


def input_4(v: Vectors, d: Values) -> list[Value]:
    """Transposed B of 4x4 tiles."""
    outer, inner = v.scale_add(-4, d[2], d[4]), v.scale_add(-4, d[1], d[3])
    even, odd = v.subtract(d[4], d[2]), v.subtract(d[3], d[1])
    return [
        v.scale_add(4, d[0], v.scale_add(-5, d[2], d[4])),
        v.add(outer, inner),
        v.subtract(outer, inner),
        v.scale_add(2, odd, even),
        v.scale_add(-2, odd, even),
        v.scale_add(4, d[1], v.scale_add(-5, d[3], d[5])),
    ]


def output_2(v: Vectors, m: Values) -> list[Value]:
    """Transposed A of 2x2 tiles."""
    return [v.add(v.add(m[0], m[1]), m[2]), v.subtract(v.subtract(m[1], m[2]), m[3])]


def output_4(v: Vectors, m: Values) -> list[Value]:
    """Transposed A of 4x4 tiles."""
    sum_1, difference_1 = v.add(m[1], m[2]), v.subtract(m[1], m[2])
    sum_2, difference_2 = v.add(m[3], m[4]), v.subtract(m[3], m[4])
    return [
        v.add(v.add(m[0], sum_1), sum_2),
        v.scale_add(2, difference_2, difference_1),
        v.scale_add(4, sum_2, sum_1),
        v.add(v.scale_add(8, difference_2, difference_1), m[5]),
    ]


def gradient_2(v: Vectors, y: Values) -> list[Value]:
    """A of 2x2 tiles."""
    return [y[0], v.add(y[0], y[1]), v.subtract(y[0], y[1]), v.scale(-1, y[1])]


def gradient_4(v: Vectors, y: Values) -> list[Value]:
    """A of 4x4 tiles."""
    even_1, odd_1 = v.add(y[0], y[2]), v.add(y[1], y[3])
    even_2, odd_2 = v.scale_add(4, y[2], y[0]), v.scale_add(4, y[3], y[1])
    return [
        y[0],
        v.add(even_1, odd_1),
        v.subtract(even_1, odd_1),
        v.scale_add(2, odd_2, even_2),
        v.scale_add(-2, odd_2, even_2),
        y[3],
    ]


def kernel_2(v: Vectors, g: Values) -> list[Value]:
    """G of 2x2 tiles."""
    even = v.scale(0.5, v.add(g[0], g[2]))
    return [g[0], v.scale_add(0.5, g[1], even), v.scale_add(-0.5, g[1], even), g[2]]


def kernel_4(v: Vectors, g: Values) -> list[Value]:
    """G of 4x4 tiles."""
    even_1 = v.scale(-1 / 6, v.add(g[0], g[2]))
    even_2 = v.scale_add(1 / 24, g[0], v.scale(1 / 6, g[2]))
    return [
        v.scale(1 / 4, g[0]),
        v.scale_add(-1 / 6, g[1], even_1),
        v.scale_add(1 / 6, g[1], even_1),
        v.scale_add(1 / 12, g[1], even_2),
        v.scale_add(-1 / 12, g[1], even_2),
        g[2],
    ]


def kernel_gradient_2(v: Vectors, s: Values) -> list[Value]:
    """Transposed G of 2x2 tiles."""
    even = v.scale(0.5, v.add(s[1], s[2]))
    return [v.add(s[0], even), v.scale(0.5, v.subtract(s[1], s[2])), v.add(even, s[3])]


def kernel_gradient_4(v: Vectors, s: Values) -> list[Value]:
    """Transposed G of 4x4 tiles."""
    sum_1, sum_2 = v.add(s[1], s[2]), v.add(s[3], s[4])
    return [
        v.scale_add(1 / 4, s[0], v.scale_add(-1 / 6, sum_1, v.scale(1 / 24, sum_2))),
        v.scale_add(1 / 6, v.subtract(s[2], s[1]), v.scale(1 / 12, v.subtract(s[3], s[4]))),
        v.add(v.scale(1 / 6, v.subtract(sum_2, sum_1)), s[5]),
    ]


# -- the same in two dimensions, between arrays --------------------------------------------------------------


def _square(v: Vectors, transform: Transform, rows: Sequence[Values]) -> Iterator[list[Value]]:
    """The matrix on the left and, transposed, on the right of a square of vectors, a row at a time.

    So that what is done with a row comes before the next one: all of them would not stay in registers.
    """
    columns = [transform(v, column) for column in zip(*rows, strict=True)]
    for row in zip(*columns, strict=True):
        yield transform(v, row)


class _Array:
    """Vectors at places of a float array argument."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, array: Value, start: Value) -> None:
        self.builder = builder
        self.base = builder.gep(context.make_array(kind)(context, builder, array).data, [start])

    def at(self, *parts: tuple[int, Value] | int) -> Value:
        """A pointer to start + the sum of the parts, each a number or (count, pitch)."""
        place: Value = ir.Constant(_INDEX, sum(part for part in parts if isinstance(part, int)))
        for part in parts:
            if not isinstance(part, int):
                count, pitch = part
                place = self.builder.add(place, self.builder.mul(ir.Constant(_INDEX, count), pitch))
        return self.builder.bitcast(self.builder.gep(self.base, [place]), _VECTOR.as_pointer())

    def load(self, *parts: tuple[int, Value] | int) -> Value:
        return self.builder.load(self.at(*parts), align=4)

    def store(self, value: Value, *parts: tuple[int, Value] | int) -> None:
        self.builder.store(value, self.at(*parts), align=4)


def _store_square(target: _Array, pitch: Value, rows: Iterator[list[Value]]) -> None:
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            target.store(value, (i * len(row) + j, pitch))


def _emitter(body: Callable[..., None]) -> Callable[..., None]:
    """An intrinsic f(source, start, target, place, a, b, c), three pitches at the end, whose code
    body(v, source, target, a, b, c) emits, with both arrays beginning at their place."""
    signature = types.void(_FLOATS, types.int64, _FLOATS, *[types.int64] * 4)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, start, target, place, *pitches = arguments
        kinds = signature.args
        body(
            Vectors(builder),
            _Array(context, builder, kinds[0], source, start),
            _Array(context, builder, kinds[2], target, place),
            *pitches,
        )
        return context.get_dummy_value()

    def transform(
        typing: Any, source: Any, start: Any, target: Any, place: Any, a: Any, b: Any, c: Any
    ) -> tuple[Any, Any]:
        return signature, generate

    return intrinsic(transform)


def _emit_split(tile: int) -> Callable[..., None]:
    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, *_: Value) -> None:
        values = v.unzip([source.load(LANES * i) for i in range(tile)])
        for i, value in enumerate(values):
            target.store(value, (i, pitch))

    return _emitter(body)


def _emit_spread(phases: int, size: int, transform: Transform) -> Callable[..., None]:
    """From rows split into so many phases to one vector an element of the transformed tile."""

    def body(v: Vectors, source: _Array, target: _Array, row: Value, phase: Value, pitch: Value) -> None:
        rows = [
            [source.load((i, row), (j % phases, phase), j // phases) for j in range(size)]
            for i in range(size)
        ]
        _store_square(target, pitch, _square(v, transform, rows))

    return _emitter(body)


def _emit_output(tile: int, transform: Transform) -> Callable[..., None]:
    size = tile + 2

    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, row: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        for i, values in enumerate(_square(v, transform, rows)):
            for j, value in enumerate(v.zip(values)):
                target.store(value, (i, row), LANES * j)

    return _emitter(body)


def _emit_kernel_gradient(size: int, transform: Transform) -> Callable[..., None]:
    """From squares of vectors to those of 3x3 taps, their elements a pitch apart."""

    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, result: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        _store_square(target, result, _square(v, transform, rows))

    return _emitter(body)


def _emit_interleave() -> Callable[..., None]:
    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, *_: Value) -> None:
        for i, value in enumerate(v.zip([source.load((i, pitch)) for i in range(ROWS)])):
            target.store(value, LANES * i)

    return _emitter(body)


def _emit_gather(width: int, transform: Transform) -> Callable[..., None]:
    """An intrinsic that transforms the kernels of `width` rows and as many channels as fill a vector.

    f(values, rows, row, channels, channel, turned, target, place, pitch): the 3x3 kernel of a lane begins at
    values[rows[row + lane % width] + channels[channel + lane // width]]; turned is by 180 degrees. Element n
    goes to target[place + n*pitch + lane]. Kernels AHEAD channels on are fetched into the cache, as those of
    successive channels may lie too far apart for the processor to expect them.
    """
    number = types.int64
    signature = types.void(
        _FLOATS, _INDICES, number, _INDICES, number, types.boolean, _FLOATS, number, number
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        values, rows, row, channels, channel, turned, target, place, pitch = arguments
        kinds = signature.args
        v = Vectors(builder)
        result = _Array(context, builder, kinds[6], target, place)

        def places(kind: Any, table: Value, start: Value, count: int) -> list[Value]:
            pointer = builder.gep(context.make_array(kind)(context, builder, table).data, [start])
            return [builder.load(builder.gep(pointer, [ir.Constant(_INDEX, i)])) for i in range(count)]

        row_places = places(kinds[1], rows, row, width)
        count = LANES // width
        channel_places = places(kinds[3], channels, channel, AHEAD + count)
        kernels = [
            _Array(context, builder, kinds[0], values, builder.add(first, second)).base
            for second in channel_places
            for first in row_places
        ]
        for kernel in kernels[-LANES:]:
            v.prefetch(kernel)

        def gather(tap: int) -> Value:
            vector: Value = ir.Constant(_VECTOR, ir.Undefined)
            for lane, kernel in enumerate(kernels[:LANES]):
                weight = builder.load(builder.gep(kernel, [ir.Constant(_INDEX, tap)]))
                vector = builder.insert_element(vector, weight, ir.Constant(ir.IntType(32), lane))
            return vector

        with builder.if_else(turned) as branches:
            for branch, order in zip(branches, (range(8, -1, -1), range(9)), strict=True):
                with branch:
                    taps = [gather(tap) for tap in order]
                    _store_square(result, pitch, _square(v, transform, [taps[:3], taps[3:6], taps[6:]]))
        return context.get_dummy_value()

    def transform_kernels(
        typing: Any,
        values: Any,
        rows: Any,
        row: Any,
        channels: Any,
        channel: Any,
        turned: Any,
        target: Any,
        place: Any,
        pitch: Any,
    ) -> tuple[Any, Any]:
        return signature, generate

    return intrinsic(transform_kernels)


# All but the transforms of kernels are called f(source, start, target, place, a, b, c), with 0 for a pitch
# that they do not have.

# split, pitch a: target[place + i*a + lane] = source[start + tile*lane + i].
split_2, split_4 = _emit_split(2), _emit_split(4)

# transform_input, pitches row a, phase b, result c: element (i, j) of lane's tile is source[start + i*a +
# (j % tile)*b + j // tile + lane]; its result n goes to target[place + n*c + lane]. transform_gradient alike,
# from tile x tile elements.
transform_input_2, transform_input_4 = _emit_spread(2, 4, input_2), _emit_spread(4, 6, input_4)
transform_gradient_2, transform_gradient_4 = _emit_spread(2, 2, gradient_2), _emit_spread(4, 4, gradient_4)
# The same from all elements of each tile side by side, not shared with the next lane's.
transform_patch_2, transform_patch_4 = _emit_spread(4, 4, input_2), _emit_spread(6, 6, input_4)

# transform_output, pitches element a, row b: element n of lane's tile is source[start + n*a + lane]; its
# result (i, j) goes to target[place + i*b + tile*lane + j].
transform_output_2, transform_output_4 = _emit_output(2, output_2), _emit_output(4, output_4)

# transform_kernel_gradient, pitches element a, result b: element n of lane's sums is source[start + n*a +
# lane]; tap n of its 3x3 kernel goes to target[place + n*b + lane].
transform_kernel_gradient_2 = _emit_kernel_gradient(4, kernel_gradient_2)
transform_kernel_gradient_4 = _emit_kernel_gradient(6, kernel_gradient_4)

# interleave, pitch a: target[place + i*ROWS + j] = source[start + j*a + i], i below LANES, j below ROWS.
interleave = _emit_interleave()

# Successive rows as lanes, of one channel, or of as many as fill a vector with ROWS rows of each.
transform_kernels_2, transform_kernels_4 = _emit_gather(LANES, kernel_2), _emit_gather(LANES, kernel_4)
transform_rows_2, transform_rows_4 = _emit_gather(ROWS, kernel_2), _emit_gather(ROWS, kernel_4)
