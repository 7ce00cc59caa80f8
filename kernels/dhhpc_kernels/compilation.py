"""Compiling kernels with Numba."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.compiler_lock import global_compiler_lock

from dhhpc_kernels.cache import KernelCache

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered (so that they vectorise) and multiply-adds fused. NaN and infinity must get through:
# a diverged training has to be seen, so neither 'nnan' nor 'ninf'.
_FAST_MATH = {"reassoc", "contract", "nsz"}

_njit: Any = numba.njit
# Nobody calls a kernel from C.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

kernels: list[Any] = []


def compile_kernel(function: Function) -> Function:
    """Decorate a kernel: compiled by Numba on its first call, without the interpreter's lock, and cached."""
    return _compile(function, _FAST_MATH)


def compile_in_order(function: Function) -> Function:
    """As `compile_kernel`, but sums and products of several numbers keep the order in which they are written.

    The compiler may take another order for the numbers that are left over at the end of a vectorised loop. So
    a kernel that computes each number by itself rounds it alike wherever a thread's share ends.
    """
    return _compile(function, _FAST_MATH - {"reassoc"})


def compile_part(function: Function) -> Function:
    """Decorate what only kernels call: compiled with each of them, and not to be called from Python.

    Numba's code to read a call's arguments takes it a third of a second to compile.
    """
    part: Any = _njit(**_OPTIONS, fastmath=_FAST_MATH, no_cpython_wrapper=True)(function)
    return part


def compile_phase(function: Function) -> Function:
    """As `compile_part` for what one kernel alone calls: compiled as if it were written there, not before."""
    phase: Any = _njit(**_OPTIONS, fastmath=_FAST_MATH, no_cpython_wrapper=True, inline="always")(function)
    return phase


def _compile(function: Function, fast_math: set[str]) -> Function:
    compiled: Any = _njit(**_OPTIONS, fastmath=fast_math)(function)
    cache = KernelCache(function)
    compile_or_load = compiled.compile

    def compile_once(signature: Any) -> Any:
        with global_compiler_lock:
            try:
                return compile_or_load(signature)
            finally:
                cache.release(signature)

    compiled._cache = cache
    compiled.compile = compile_once
    kernels.append(compiled)
    return compiled


def compilations() -> dict[str, int]:
    """Of each kernel: how often this process compiled it, for as many signatures, and did not load it."""
    return {
        f"{kernel.__module__}.{kernel.__name__}": sum(kernel.stats.cache_misses.values())
        for kernel in kernels
    }
