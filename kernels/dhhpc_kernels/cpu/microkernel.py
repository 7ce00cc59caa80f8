"""The register-blocked inner loops of convolution and matrix products, emitted as LLVM vector code.

Numba's own loops spill the block of sums to memory. Here each sum is a vector value that lives in a register
over the whole loop, so the multiply-add units stay busy (Goto and van de Geijn 2008 explain the blocking).
A block is ROWS x VECTORS sums: with the loaded operands it just fills the register file.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.target import vector_registers

LANES, REGISTERS = vector_registers()  # float32 in a vector, and such vectors at once
ROWS = 8 if LANES == 16 else 4  # of a block, at most LANES
VECTORS = (REGISTERS - 1) // (ROWS + 1)  # beside the sums: that many columns and one row's factor
COLUMNS = LANES * VECTORS
LINE = 16  # floats of a cache line
# A block of two packed factors: as wide as whole cache lines and two vectors at least, as with fewer their
# loads would keep the multiply-adds waiting; as high as there are registers then.
_WIDE_VECTORS = max(2, LINE // LANES)
WIDTH = _WIDE_VECTORS * LANES
HEIGHT = (REGISTERS - 1 - _WIDE_VECTORS) // _WIDE_VECTORS
STEPS = 4  # of the common dimension that a turn of that block's loop takes

_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_VECTOR, None)
FLOATS = types.Array(types.float32, 1, "C")
INDICES = types.Array(types.int64, 1, "C")


def index(value: int) -> ir.Constant:
    return ir.Constant(_INDEX, value)


class Emitter:
    """Loads, stores and multiply-adds of vectors at the places of a builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.multiply_add = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_VECTOR, [_VECTOR] * 3),
            f"llvm.fmuladd.v{LANES}f32",
        )

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)

    def shuffle(self, first: ir.Value, second: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """The lanes of two vectors, numbered one after the other, in a new order."""
        order = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
        return self.builder.shuffle_vector(first, second, order)

    def broadcast(self, value: ir.Value) -> ir.Value:
        """A vector of one float."""
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(first, undefined, [0] * LANES)

    def add_products(
        self, rows: list[ir.Value], columns: list[ir.Value], sums: list[ir.Value]
    ) -> list[ir.Value]:
        """The sums, row after row, plus the float that each row points to times the vectors of columns."""
        updated = []
        for i, pointer in enumerate(rows):
            factor = self.broadcast(self.builder.load(pointer))
            for v, column in enumerate(columns):
                before = sums[i * len(columns) + v]
                updated.append(self.builder.call(self.multiply_add, [factor, column, before]))
        return updated

    def sums(
        self,
        first: list[ir.Value],
        count: ir.Value,
        step: int,
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """Vector sums, `first` at first, after body(i, sums) for i = 0, step, ... below count."""
        builder = self.builder
        before = builder.block
        loop = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(_INDEX)
        i.add_incoming(index(0), before)
        sums = [builder.phi(value.type) for value in first]
        for value, start in zip(sums, first, strict=True):
            value.add_incoming(start, before)
        updated = body(i, sums)
        following = builder.add(i, index(step))
        i.add_incoming(following, loop)
        for value, new in zip(sums, updated, strict=True):
            value.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        builder.position_at_end(after)
        return updated


def pointer_at(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, start: ir.Value
) -> ir.Value:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [start])


def _multiply_tile(
    typing_context: Any,
    weights: Any,
    weight: Any,
    offsets: Any,
    offset: Any,
    depth: Any,
    source: Any,
    place: Any,
    target: Any,
    start: Any,
    pitch: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + j] = sum over k of weights[weight + k*ROWS + i] * source[place + offset_k + j]

    i below ROWS, j below COLUMNS, k below depth (at least 1), offset_k = offsets[offset + k].
    """
    signature = types.void(
        FLOATS,
        types.int64,
        INDICES,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        weights, weight, offsets, offset, depth, source, place, target, start, pitch = arguments
        array_types = signature.args
        emit = Emitter(builder)
        weights = pointer_at(context, builder, array_types[0], weights, weight)
        offsets = pointer_at(context, builder, array_types[2], offsets, offset)
        source = pointer_at(context, builder, array_types[5], source, place)
        target = pointer_at(context, builder, array_types[7], target, start)

        def body(k: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            pixels = builder.gep(source, [builder.load(builder.gep(offsets, [k]))])
            columns = [emit.load(builder.gep(pixels, [index(LANES * v)])) for v in range(VECTORS)]
            row = builder.gep(weights, [builder.mul(k, index(ROWS))])
            return emit.add_products([builder.gep(row, [index(i)]) for i in range(ROWS)], columns, sums)

        sums = emit.sums([_ZEROS] * (ROWS * VECTORS), depth, 1, body)
        for i in range(ROWS):
            row = builder.gep(target, [builder.mul(pitch, index(i))])
            for v in range(VECTORS):
                emit.store(sums[i * VECTORS + v], builder.gep(row, [index(LANES * v)]))
        return context.get_dummy_value()

    return signature, generate


_ROWS_ARGUMENTS = (
    FLOATS,
    types.int64,
    types.int64,
    INDICES,
    types.int64,
    FLOATS,
    types.int64,
    INDICES,
    types.int64,
    FLOATS,
    types.int64,
    types.int64,
    types.boolean,
)


def _emit_rows(context: Any, builder: ir.IRBuilder, kinds: Any, arguments: Any, vectors: int) -> None:
    """The loop of multiply_rows, on so many vectors of columns."""
    rows, row, row_pitch, steps, depth, source, place, offsets, offset, target, start, pitch, add = arguments
    emit = Emitter(builder)
    first = pointer_at(context, builder, kinds[0], rows, row)
    lines = [builder.gep(first, [builder.mul(row_pitch, index(i))]) for i in range(ROWS)]
    steps = pointer_at(context, builder, kinds[3], steps, index(0))
    source = pointer_at(context, builder, kinds[5], source, place)
    offsets = pointer_at(context, builder, kinds[7], offsets, offset)
    target = pointer_at(context, builder, kinds[9], target, start)
    targets = [
        builder.gep(target, [builder.add(builder.mul(pitch, index(i)), index(LANES * v))])
        for i in range(ROWS)
        for v in range(vectors)
    ]
    adding = cgutils.as_bool_bit(builder, add)
    # Loaded in any case: so the lines that are stored later are on their way during the loop.
    initial = [builder.select(adding, emit.load(pointer), _ZEROS) for pointer in targets]

    def body(k: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        pixels = builder.gep(source, [builder.load(builder.gep(offsets, [k]))])
        columns = [emit.load(builder.gep(pixels, [index(LANES * v)])) for v in range(vectors)]
        here = builder.load(builder.gep(steps, [k]))
        return emit.add_products([builder.gep(line, [here]) for line in lines], columns, sums)

    for value, pointer in zip(emit.sums(initial, depth, 1, body), targets, strict=True):
        emit.store(value, pointer)


def _multiply_rows(
    typing_context: Any,
    rows: Any,
    row: Any,
    row_pitch: Any,
    steps: Any,
    depth: Any,
    source: Any,
    place: Any,
    offsets: Any,
    offset: Any,
    target: Any,
    start: Any,
    pitch: Any,
    add: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + j] = sum over k of left_ik * source[place + offset_k + j]

    left_ik = rows[row + i*row_pitch + steps[k]], offset_k = offsets[offset + k]; i below ROWS, j below
    COLUMNS, k below depth (at least 1). add: += for =.
    """
    signature = types.void(*_ROWS_ARGUMENTS)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _emit_rows(context, builder, signature.args, arguments, VECTORS)
        return context.get_dummy_value()

    return signature, generate


def _multiply_columns(
    typing_context: Any,
    rows: Any,
    row: Any,
    row_pitch: Any,
    steps: Any,
    depth: Any,
    source: Any,
    place: Any,
    offsets: Any,
    offset: Any,
    target: Any,
    start: Any,
    pitch: Any,
    add: Any,
    vectors: Any,
) -> tuple[Any, Any]:
    """As multiply_rows, for j below vectors * LANES only, at most COLUMNS.

    VECTORS - 1 are as fast for their size as VECTORS; as many are computed where it is fewer.
    """
    signature = types.void(*_ROWS_ARGUMENTS, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        *arguments, vectors = arguments
        with builder.if_else(builder.icmp_signed("<", vectors, index(VECTORS))) as (narrow, whole):
            with narrow:
                _emit_rows(context, builder, signature.args, arguments, VECTORS - 1)
            with whole:
                _emit_rows(context, builder, signature.args, arguments, VECTORS)
        return context.get_dummy_value()

    return signature, generate


def packed_sums(
    emit: Emitter,
    left: ir.Value,
    right: Callable[[ir.Value], Sequence[ir.Value]],
    depth: ir.Value,
    first: Sequence[ir.Value] = (),
    meanwhile: Callable[[ir.Value], None] = lambda k: None,
) -> list[ir.Value]:
    """Row after row the vectors of sums over k of left[k*HEIGHT + i] * line_k[j].

    i below HEIGHT, j below WIDTH, k below depth, a multiple of STEPS and not 0. right: emits pointers to
    line_k of k and those that follow, STEPS of them. first: what is added to, unless it is 0. meanwhile:
    emits what else each turn of the loop does, from its k on.
    """
    builder = emit.builder

    def body(k: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        meanwhile(k)
        row = builder.gep(left, [builder.mul(k, index(HEIGHT))])
        for step, line in enumerate(right(k)):
            factors = [builder.gep(row, [index(step * HEIGHT + i)]) for i in range(HEIGHT)]
            columns = [emit.load(builder.gep(line, [index(v * LANES)])) for v in range(_WIDE_VECTORS)]
            sums = emit.add_products(factors, columns, sums)
        return sums

    return emit.sums(list(first) or [_ZEROS] * (HEIGHT * _WIDE_VECTORS), depth, STEPS, body)


def panel_lines(builder: ir.IRBuilder, panel: ir.Value) -> Callable[[ir.Value], Sequence[ir.Value]]:
    """`packed_sums`'s right: lines of WIDTH floats that follow each other."""

    def lines(k: ir.Value) -> list[ir.Value]:
        first = builder.gep(panel, [builder.mul(k, index(WIDTH))])
        return [builder.gep(first, [index(step * WIDTH)]) for step in range(STEPS)]

    return lines


def block_places(builder: ir.IRBuilder, target: ir.Value, pitch: ir.Value) -> list[ir.Value]:
    """Where each of `packed_sums` goes, with rows `pitch` floats apart."""
    rows = [builder.gep(target, [builder.mul(pitch, index(i))]) for i in range(HEIGHT)]
    return [builder.gep(row, [index(v * LANES)]) for row in rows for v in range(_WIDE_VECTORS)]


def _multiply_packed(
    typing_context: Any,
    left: Any,
    row: Any,
    right: Any,
    column: Any,
    depth: Any,
    target: Any,
    start: Any,
    pitch: Any,
    add: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + j] = sum over k of left[row + k*HEIGHT + i] * right[column + k*WIDTH + j]

    i below HEIGHT, j below WIDTH, k below depth, a multiple of STEPS and not 0. add: += for =.
    """
    signature = types.void(
        FLOATS,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
        types.boolean,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        left, row, right, column, depth, target, start, pitch, add = arguments
        emit = Emitter(builder)
        left, right, target = (
            pointer_at(context, builder, FLOATS, array, place)
            for array, place in ((left, row), (right, column), (target, start))
        )
        adding = cgutils.as_bool_bit(builder, add)
        sums = packed_sums(emit, left, panel_lines(builder, right), depth)
        for value, pointer in zip(sums, block_places(builder, target, pitch), strict=True):
            before = builder.select(adding, emit.load(pointer), _ZEROS)
            emit.store(builder.fadd(value, before), pointer)
        return context.get_dummy_value()

    return signature, generate


def _multiply_listed(
    typing_context: Any,
    left: Any,
    row: Any,
    right: Any,
    column: Any,
    lines: Any,
    line: Any,
    depth: Any,
    target: Any,
    start: Any,
    pitch: Any,
    add: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + j] = sum over k of left[row + k*HEIGHT + i] * right[column + line_k + j]

    i below HEIGHT, j below WIDTH, k below depth, a multiple of STEPS and not 0; line_k = lines[line + k].
    add: += for =.
    """
    signature = types.void(
        FLOATS,
        types.int64,
        FLOATS,
        types.int64,
        INDICES,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
        types.boolean,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        left, row, right, column, lines, line, depth, target, start, pitch, add = arguments
        emit = Emitter(builder)
        left, right, target = (
            pointer_at(context, builder, FLOATS, array, place)
            for array, place in ((left, row), (right, column), (target, start))
        )
        table = pointer_at(context, builder, INDICES, lines, line)

        def listed(k: ir.Value) -> list[ir.Value]:
            here = builder.gep(table, [k])
            places = [builder.load(builder.gep(here, [index(step)])) for step in range(STEPS)]
            return [builder.gep(right, [place]) for place in places]

        adding = cgutils.as_bool_bit(builder, add)
        places = block_places(builder, target, pitch)
        first = [builder.select(adding, emit.load(pointer), _ZEROS) for pointer in places]
        for value, pointer in zip(packed_sums(emit, left, listed, depth, first), places, strict=True):
            emit.store(value, pointer)
        return context.get_dummy_value()

    return signature, generate


multiply_tile: Callable[..., None] = intrinsic(_multiply_tile)
multiply_packed: Callable[..., None] = intrinsic(_multiply_packed)
multiply_listed: Callable[..., None] = intrinsic(_multiply_listed)
multiply_rows: Callable[..., None] = intrinsic(_multiply_rows)
multiply_columns: Callable[..., None] = intrinsic(_multiply_columns)
