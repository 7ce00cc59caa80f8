"""Sums of products along lines of pixels: the inner loops of gradients by weights.

A block is ROWS lines of one factor and VECTORS of the other. The products of each pair are summed in the
lanes of a register over the whole loop; the lanes are added up behind it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.cpu.microkernel import (
    FLOATS,
    INDICES,
    LANES,
    ROWS,
    VECTORS,
    Emitter,
    index,
    pointer_at,
)

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_VECTOR, None)
_PITCH = 1 << (VECTORS - 1).bit_length()  # lanes from one row's first total to the next one's


def _added_up(emit: Emitter, vectors: list[ir.Value | None]) -> ir.Value:
    """Lane i is the sum of the lanes of vector i of LANES; None is a vector of zeros.

    Half of the vectors are added to the other half, lane by lane, as often as that goes: as a butterfly, so
    that the lanes of each stay apart.
    """
    size = LANES // 2
    while size:
        first = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
        second = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
        merged: list[ir.Value | None] = []
        for one, other in zip(vectors[:size], vectors[size:], strict=True):
            if one is None and other is None:
                merged.append(None)
                continue
            pair = one or _ZEROS, other or _ZEROS
            merged.append(emit.builder.fadd(emit.shuffle(*pair, first), emit.shuffle(*pair, second)))
        vectors, size = merged, size // 2
    return vectors[0] or _ZEROS


def _totals(emit: Emitter, sums: list[ir.Value]) -> list[ir.Value]:
    """For each row a vector of VECTORS totals, from the block's sums."""
    spread: list[ir.Value | None] = []
    for i in range(ROWS):
        spread += [*sums[i * VECTORS : (i + 1) * VECTORS], *[None] * (_PITCH - VECTORS)]
    spread += [None] * (-len(spread) % (2 * LANES))
    totals = [_added_up(emit, spread[i : i + LANES]) for i in range(0, len(spread), LANES)]
    found = []
    for i in range(ROWS):
        pair, lane = divmod(i * _PITCH, 2 * LANES)
        wanted = list(range(lane, lane + VECTORS))
        found.append(emit.shuffle(totals[2 * pair], totals[2 * pair + 1], wanted))
    return found


def _add_products(
    typing_context: Any,
    rows: Any,
    row: Any,
    row_pitch: Any,
    source: Any,
    offsets: Any,
    offset: Any,
    length: Any,
    target: Any,
    start: Any,
    pitch: Any,
) -> tuple[Any, Any]:
    """target[start + i*pitch + v] += sum over p of rows[row + i*row_pitch + p] * source[offset_v + p].

    i below ROWS, v below VECTORS, p below length rounded up to LANES, offset_v = offsets[offset + v].
    """
    signature = types.void(
        FLOATS,
        types.int64,
        types.int64,
        FLOATS,
        INDICES,
        types.int64,
        types.int64,
        FLOATS,
        types.int64,
        types.int64,
    )

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, row, row_pitch, source, offsets, offset, length, target, start, pitch = arguments
        kinds = signature.args
        emit = Emitter(builder)
        rows = pointer_at(context, builder, kinds[0], rows, row)
        offsets = pointer_at(context, builder, kinds[4], offsets, offset)
        target = pointer_at(context, builder, kinds[7], target, start)
        lines = [builder.gep(rows, [builder.mul(row_pitch, index(i))]) for i in range(ROWS)]
        pixels = [
            pointer_at(context, builder, kinds[3], source, builder.load(builder.gep(offsets, [index(v)])))
            for v in range(VECTORS)
        ]

        def body(p: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            columns = [emit.load(builder.gep(pointer, [p])) for pointer in pixels]
            updated = []
            for i in range(ROWS):
                factor = emit.load(builder.gep(lines[i], [p]))
                for v in range(VECTORS):
                    updated.append(
                        builder.call(emit.multiply_add, [factor, columns[v], sums[i * VECTORS + v]])
                    )
            return updated

        sums = emit.sums([_ZEROS] * (ROWS * VECTORS), length, LANES, body)
        totals = ir.VectorType(_FLOAT, VECTORS).as_pointer()
        for i, total in enumerate(_totals(emit, sums)):
            place = builder.bitcast(builder.gep(target, [builder.mul(pitch, index(i))]), totals)
            builder.store(builder.fadd(builder.load(place, align=4), total), place, align=4)
        return context.get_dummy_value()

    return signature, generate


add_products: Callable[..., None] = intrinsic(_add_products)
