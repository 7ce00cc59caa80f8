"""The processor that Numba compiles for: this one, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""

import functools

import llvmlite.binding as llvm
from numba.core.registry import cpu_target

_PROBE = """
define <16 x float> @probe(<16 x float> %a, <16 x float> %b) {
  %sum = fadd <16 x float> %a, %b
  ret <16 x float> %sum
}
"""


@functools.cache
def target() -> tuple[str, str, str]:
    """The triple, the name of the CPU and its features, as LLVM calls them."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    return triple, cpu, features


@functools.cache
def vector_registers() -> tuple[int, int]:
    """float32 lanes of a vector register, and how many such registers the target has.

    LLVM is asked by a sum of 16 floats: names and features of CPUs imply each other in too many ways.
    """
    triple, cpu, features = target()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(_PROBE))
    if "zmm" in assembly:
        return 16, 32
    if "ymm" in assembly:
        return 8, 16
    return 4, 16 if "xmm" in assembly else 32  # SSE; ARM's and POWER's 128-bit vectors
