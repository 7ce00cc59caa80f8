"""Arithmetic on vectors of float32, and moves between them, emitted as LLVM code."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from dhhpc_kernels.cpu.microkernel import LANES, Emitter

Value = Any
Values = Sequence[Any]

_BYTES = ir.IntType(8).as_pointer()
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


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
        return self.fused(ir.Constant(_VECTOR, [factor] * LANES), a, b)

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c."""
        return self.builder.call(self.multiply_add, [a, b, c])

    def stream(self, value: Value, pointer: Value) -> None:
        """Store a vector past the caches; the pointer must be a multiple of the vector's size."""
        pointer = self.builder.bitcast(pointer, _VECTOR.as_pointer())
        store = self.builder.store(value, pointer, align=4 * LANES)
        store.set_metadata("nontemporal", self.builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    def prefetch(self, pointer: Value, write: bool = False) -> None:
        """Begin to fetch the cache line of a pointer."""
        flag = ir.IntType(32)
        kinds = [_BYTES, flag, flag, flag]
        fetch = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
        )
        purpose, often, data = (ir.Constant(flag, number) for number in (int(write), 3, 1))
        self.builder.call(fetch, [self.builder.bitcast(pointer, _BYTES), purpose, often, data])

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
