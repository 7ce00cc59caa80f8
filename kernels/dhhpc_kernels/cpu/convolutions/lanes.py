"""Vector code with loops, on floats at places in memory."""

from collections.abc import Callable, Sequence

from llvmlite import ir

from dhhpc_kernels.cpu.microkernel import LANES, index
from dhhpc_kernels.cpu.vectors import Value, Vectors

FLOAT_BYTES = 4
_FLOAT = ir.FloatType()
_INDEX = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)


class Lanes(Vectors):
    """Loops, and places as pointers."""

    def at(self, place: Value, kind: ir.Type = _FLOAT) -> Value:
        """The pointer to a place."""
        address = self.builder.mul(place, index(FLOAT_BYTES))
        return self.builder.inttoptr(address, kind.as_pointer())

    def smallest(self, a: Value, b: Value) -> Value:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def largest(self, a: Value, b: Value) -> Value:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def steps(self, count: Value, step: int, body: Callable[[Value], None]) -> None:
        """body(i) for i = 0, step, ... below count."""
        builder = self.builder
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", count, index(0)), loop, after)
        builder.position_at_end(loop)
        i = builder.phi(_INDEX)
        i.add_incoming(index(0), before)
        body(i)
        following = builder.add(i, index(step))
        i.add_incoming(following, builder.block)  # the body may hold a loop
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        builder.position_at_end(after)

    def blocks(self, count: Value, size: int, body: Callable[[Value], None]) -> None:
        """body(i) for i = 0, size, ... and count - size, which is at least 0: the last may overlap."""
        builder = self.builder
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        last = builder.sub(count, index(size))
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(_INDEX)
        i.add_incoming(index(0), before)
        body(i)
        following = builder.add(i, index(size))
        beyond = builder.icmp_signed(">", following, last)
        i.add_incoming(builder.select(beyond, last, following), builder.block)
        builder.cbranch(builder.icmp_signed("<", i, last), loop, after)
        builder.position_at_end(after)

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
