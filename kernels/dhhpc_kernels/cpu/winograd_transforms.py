"""The transforms of Winograd's minimal filtering on vectors of tiles, emitted as LLVM vector code.

Each lane of a vector is one tile, so a transform is a few dozen additions and multiplications of whole
vectors. The matrices are those of Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, 2016)
for 3x3 kernels: tiles of 2x2 results take 4x4 inputs (points 0, 1, -1), tiles of 4x4 take 6x6 (0, 1, -1, 2,
-2).
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import LANES

Value = Any
Values = Sequence[Any]
Transform = Callable[["Vectors", Values], list[Any]]

_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLOATS = types.Array(types.float32, 1, "C")


class Vectors:
    """Arithmetic on vectors at the place of a builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
        )

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def subtract(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def scale(self, factor: float, a: Value) -> Value:
        return self.builder.fmul(ir.Constant(_VECTOR, [factor] * LANES), a)

    def scale_add(self, factor: float, a: Value, b: Value) -> Value:
        """factor * a + b."""
        return self.builder.call(self.multiply_add, [ir.Constant(_VECTOR, [factor] * LANES), a, b])

    def shuffle(self, a: Value, b: Value, places: Sequence[int]) -> Value:
        """The elements at `places` of a followed by b."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(places))
        return self.builder.shuffle_vector(a, b, mask)

    def unzip(self, values: Values) -> list[Value]:
        """From 2 or 4 vectors, which hold one sequence, the vectors of every 2nd or 4th element of it."""
        even, odd = range(0, 2 * LANES, 2), range(1, 2 * LANES, 2)
        if len(values) == 1:
            return list(values)
        pairs = list(zip(values[::2], values[1::2], strict=True))
        first = self.unzip([self.shuffle(a, b, even) for a, b in pairs])
        second = self.unzip([self.shuffle(a, b, odd) for a, b in pairs])
        return [value for both in zip(first, second, strict=True) for value in both]

    def zip(self, values: Values) -> list[Value]:
        """The inverse of `unzip`."""
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


def _square(v: Vectors, transform: Transform, rows: Sequence[Values]) -> list[list[Value]]:
    """The matrix on the left and, transposed, on the right of a square of vectors."""
    along_rows = [transform(v, row) for row in rows]
    columns = [transform(v, column) for column in zip(*along_rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


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


def _emit_spread(tile: int, size: int, transform: Transform) -> Callable[..., None]:
    """From rows split into phases to one vector an element of the transformed tile."""

    def body(v: Vectors, source: _Array, target: _Array, row: Value, phase: Value, pitch: Value) -> None:
        rows = [
            [source.load((i, row), (j % tile, phase), j // tile) for j in range(size)] for i in range(size)
        ]
        for i, values in enumerate(_square(v, transform, rows)):
            for j, value in enumerate(values):
                target.store(value, (i * (tile + 2) + j, pitch))

    return _emitter(body)


def _emit_output(tile: int, transform: Transform) -> Callable[..., None]:
    size = tile + 2

    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, row: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        for i, values in enumerate(_square(v, transform, rows)):
            for j, value in enumerate(v.zip(values)):
                target.store(value, (i, row), LANES * j)

    return _emitter(body)


def _emit_kernel(size: int, transform: Transform) -> Callable[..., None]:
    """Between squares of vectors, their elements a pitch apart."""

    def body(v: Vectors, source: _Array, target: _Array, pitch: Value, result: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        values = [value for row in _square(v, transform, rows) for value in row]
        for i, value in enumerate(values):
            target.store(value, (i, result))

    return _emitter(body)


# All are called f(source, start, target, place, a, b, c), with 0 for a pitch that they do not have.

# split, pitch a: target[place + i*a + lane] = source[start + tile*lane + i].
split_2, split_4 = _emit_split(2), _emit_split(4)

# transform_input, pitches row a, phase b, result c: element (i, j) of lane's tile is source[start + i*a +
# (j % tile)*b + j // tile + lane]; its result n goes to target[place + n*c + lane]. transform_gradient alike,
# from tile x tile elements.
transform_input_2, transform_input_4 = _emit_spread(2, 4, input_2), _emit_spread(4, 6, input_4)
transform_gradient_2, transform_gradient_4 = _emit_spread(2, 2, gradient_2), _emit_spread(4, 4, gradient_4)

# transform_output, pitches element a, row b: element n of lane's tile is source[start + n*a + lane]; its
# result (i, j) goes to target[place + i*b + tile*lane + j].
transform_output_2, transform_output_4 = _emit_output(2, output_2), _emit_output(4, output_4)

# transform_kernel, pitches element a, result b: element n of lane's 3x3 kernel is source[start + n*a + lane];
# its result n goes to target[place + n*b + lane]. transform_kernel_gradient alike, back to 3x3.
transform_kernel_2, transform_kernel_4 = _emit_kernel(3, kernel_2), _emit_kernel(3, kernel_4)
transform_kernel_gradient_2 = _emit_kernel(4, kernel_gradient_2)
transform_kernel_gradient_4 = _emit_kernel(6, kernel_gradient_4)
