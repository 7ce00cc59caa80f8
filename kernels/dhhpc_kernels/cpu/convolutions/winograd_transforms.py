"""The transforms of Winograd's minimal filtering between arrays of tiles, emitted as LLVM vector code."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.convolutions.winograd_matrices import (
    gradient_2,
    gradient_4,
    input_2,
    input_4,
    kernel_2,
    kernel_4,
    kernel_gradient_2,
    kernel_gradient_4,
    output_2,
    output_4,
)
from dhhpc_kernels.cpu.microkernel import LANES, ROWS
from dhhpc_kernels.cpu.vectors import Value, Values, Vectors

AHEAD = 4  # channels

Transform = Callable[[Vectors, Values], list[Any]]

_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FLOATS = types.Array(types.float32, 1, "C")
_INDICES = types.Array(types.int64, 1, "C")


def square(v: Vectors, transform: Transform, rows: Sequence[Values]) -> Iterator[list[Value]]:
    """The matrix on the left and, transposed, on the right of a square of vectors, a row at a time.

    So that what is done with a row comes before the next one: all of them would not stay in registers.
    """
    columns = [transform(v, column) for column in zip(*rows, strict=True)]
    for row in zip(*columns, strict=True):
        yield transform(v, row)


class Floats:
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


def store_square(target: Floats, pitch: Value, rows: Iterator[list[Value]]) -> None:
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            target.store(value, (i * len(row) + j, pitch))


def emitter(body: Callable[..., None]) -> Callable[..., None]:
    """An intrinsic f(source, start, target, place, a, b, c), three pitches at the end, whose code
    body(v, source, target, a, b, c) emits, with both arrays beginning at their place."""
    signature = types.void(_FLOATS, types.int64, _FLOATS, *[types.int64] * 4)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, start, target, place, *pitches = arguments
        kinds = signature.args
        body(
            Vectors(builder),
            Floats(context, builder, kinds[0], source, start),
            Floats(context, builder, kinds[2], target, place),
            *pitches,
        )
        return context.get_dummy_value()

    def transform(
        typing: Any, source: Any, start: Any, target: Any, place: Any, a: Any, b: Any, c: Any
    ) -> tuple[Any, Any]:
        return signature, generate

    return intrinsic(transform)


def _emit_split(tile: int) -> Callable[..., None]:
    def body(v: Vectors, source: Floats, target: Floats, pitch: Value, *_: Value) -> None:
        values = v.unzip([source.load(LANES * i) for i in range(tile)])
        for i, value in enumerate(values):
            target.store(value, (i, pitch))

    return emitter(body)


def emit_spread(phases: int, size: int, transform: Transform) -> Callable[..., None]:
    """From rows split into so many phases to one vector an element of the transformed tile."""

    def body(v: Vectors, source: Floats, target: Floats, row: Value, phase: Value, pitch: Value) -> None:
        rows = [
            [source.load((i, row), (j % phases, phase), j // phases) for j in range(size)]
            for i in range(size)
        ]
        store_square(target, pitch, square(v, transform, rows))

    return emitter(body)


def emit_output(size: int, transform: Transform) -> Callable[..., None]:
    """From a square of so many vectors a side to rows of pixels."""

    def body(v: Vectors, source: Floats, target: Floats, pitch: Value, row: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        for i, values in enumerate(square(v, transform, rows)):
            for j, value in enumerate(v.zip(values)):
                target.store(value, (i, row), LANES * j)

    return emitter(body)


def _emit_kernel_gradient(size: int, transform: Transform) -> Callable[..., None]:
    """From squares of vectors to those of 3x3 taps, their elements a pitch apart."""

    def body(v: Vectors, source: Floats, target: Floats, pitch: Value, result: Value, _: Value) -> None:
        rows = [[source.load((i * size + j, pitch)) for j in range(size)] for i in range(size)]
        store_square(target, result, square(v, transform, rows))

    return emitter(body)


def _emit_interleave() -> Callable[..., None]:
    def body(v: Vectors, source: Floats, target: Floats, pitch: Value, *_: Value) -> None:
        for i, value in enumerate(v.zip([source.load((i, pitch)) for i in range(ROWS)])):
            target.store(value, LANES * i)

    return emitter(body)


def emit_gather(
    width: int, body: Callable[[Vectors, Sequence[Values], Floats, Value, Value], None]
) -> Callable[..., None]:
    """An intrinsic that transforms the kernels of `width` rows and as many channels as fill a vector.

    f(values, rows, row, channels, channel, turned, target, place, a, b): the 3x3 kernel of a lane begins at
    values[rows[row + lane % width] + channels[channel + lane // width]]; turned is by 180 degrees. The code
    for its taps is what body(v, taps, target, a, b) emits, two pitches at the end. Kernels AHEAD channels on
    are fetched into the cache, as those of successive channels may lie too far apart for the processor to
    expect them.
    """
    number = types.int64
    signature = types.void(
        _FLOATS, _INDICES, number, _INDICES, number, types.boolean, _FLOATS, number, number, number
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        values, rows, row, channels, channel, turned, target, place, *pitches = arguments
        kinds = signature.args
        v = Vectors(builder)
        result = Floats(context, builder, kinds[6], target, place)

        def places(kind: Any, table: Value, start: Value, count: int) -> list[Value]:
            pointer = builder.gep(context.make_array(kind)(context, builder, table).data, [start])
            return [builder.load(builder.gep(pointer, [ir.Constant(_INDEX, i)])) for i in range(count)]

        row_places = places(kinds[1], rows, row, width)
        count = LANES // width
        channel_places = places(kinds[3], channels, channel, AHEAD + count)
        kernels = [
            Floats(context, builder, kinds[0], values, builder.add(first, second)).base
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
                    body(v, [taps[:3], taps[3:6], taps[6:]], result, *pitches)
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
        a: Any,
        b: Any,
    ) -> tuple[Any, Any]:
        return signature, generate

    return intrinsic(transform_kernels)


def _emit_kernels(width: int, transform: Transform) -> Callable[..., None]:
    """Element n of a transformed kernel goes to target[place + n*a + lane]."""

    def body(v: Vectors, taps: Sequence[Values], target: Floats, pitch: Value, _: Value) -> None:
        store_square(target, pitch, square(v, transform, taps))

    return emit_gather(width, body)


# All but the transforms of kernels are called f(source, start, target, place, a, b, c), with 0 for a pitch
# that they do not have.

# split, pitch a: target[place + i*a + lane] = source[start + tile*lane + i].
split_2, split_4, split_8 = _emit_split(2), _emit_split(4), _emit_split(8)

# transform_input, pitches row a, phase b, result c: element (i, j) of lane's tile is source[start + i*a +
# (j % tile)*b + j // tile + lane]; its result n goes to target[place + n*c + lane]. transform_gradient alike,
# from tile x tile elements.
transform_input_2, transform_input_4 = emit_spread(2, 4, input_2), emit_spread(4, 6, input_4)
transform_gradient_2, transform_gradient_4 = emit_spread(2, 2, gradient_2), emit_spread(4, 4, gradient_4)
# The same from all elements of each tile side by side, not shared with the next lane's.
transform_patch_2, transform_patch_4 = emit_spread(4, 4, input_2), emit_spread(6, 6, input_4)

# transform_output, pitches element a, row b: element n of lane's tile is source[start + n*a + lane]; its
# result (i, j) goes to target[place + i*b + tile*lane + j].
transform_output_2, transform_output_4 = emit_output(4, output_2), emit_output(6, output_4)

# transform_kernel_gradient, pitches element a, result b: element n of lane's sums is source[start + n*a +
# lane]; tap n of its 3x3 kernel goes to target[place + n*b + lane].
transform_kernel_gradient_2 = _emit_kernel_gradient(4, kernel_gradient_2)
transform_kernel_gradient_4 = _emit_kernel_gradient(6, kernel_gradient_4)

# interleave, pitch a: target[place + i*ROWS + j] = source[start + j*a + i], i below LANES, j below ROWS.
interleave = _emit_interleave()

# Successive rows as lanes, of one channel, or of as many as fill a vector with ROWS rows of each.
transform_kernels_2, transform_kernels_4 = _emit_kernels(LANES, kernel_2), _emit_kernels(LANES, kernel_4)
transform_rows_2, transform_rows_4 = _emit_kernels(ROWS, kernel_2), _emit_kernels(ROWS, kernel_4)
