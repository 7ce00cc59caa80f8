"""Compiling kernels with Numba."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from dhhpc_kernels.cache import KernelCache

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered (so that they vectorise) and multiply-adds fused. NaN and infinity must get through:
# a diverged training has to be seen, so neither 'nnan' nor 'ninf'.
_FAST_MATH = {"reassoc", "contract", "nsz"}

# Nobody calls a kernel from C.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

_njit: Any = numba.njit
_Dispatcher: Any = CPUDispatcher
kernels: list[Any] = []


class Kernel(_Dispatcher):
    """A compiled function without the code that Numba makes to read a call's arguments from Python's objects,
    for which it takes as long as for a small kernel. What is called from Python returns nothing.
    """

    def __call__(self, *call: Any) -> None:
        from dhhpc_kernels.entries import find_entry

        entry = find_entry(self, [call])
        assert entry is not None
        entry.run(call)


def compile_kernel(function: Function) -> Function:
    """Decorate a kernel: compiled by Numba on its first call, without the interpreter's lock, and cached.

    It is called by `run_parallel`, or by other kernels.
    """
    return _keep(_kernel(function, _FAST_MATH), function)


def compile_in_order(function: Function) -> Function:
    """As `compile_kernel`, but sums and products of several numbers keep the order in which they are written.

    The compiler may take another order for the numbers that are left over at the end of a vectorised loop. So
    a kernel that computes each number by itself rounds it alike wherever a thread's share ends.
    """
    return _keep(_kernel(function, _FAST_MATH - {"reassoc"}), function)


def compile_function(function: Function) -> Function:
    """As `compile_kernel` for what Python calls itself, and may return something."""
    return _keep(_njit(**_OPTIONS, fastmath=_FAST_MATH)(function), function)


def compile_part(function: Function) -> Function:
    """As `compile_kernel` for what only kernels call: not cached, but compiled with each of them."""
    part: Any = _kernel(function, _FAST_MATH)
    return part


def compile_phase(function: Function) -> Function:
    """As `compile_part` for what one kernel alone calls: compiled as if it were written there, not before."""
    phase: Any = _njit(**_OPTIONS, fastmath=_FAST_MATH, no_cpython_wrapper=True, inline="always")(function)
    return phase


def _kernel(function: Callable[..., Any], fast_math: set[str]) -> Any:
    options = {**_OPTIONS, "nopython": True, "no_cpython_wrapper": True, "fastmath": fast_math}
    return Kernel(function, targetoptions=options)


def _keep(compiled: Any, function: Function) -> Function:
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
    kept: Function = compiled
    return kept


def compilations() -> dict[str, int]:
    """Of each kernel: how often this process compiled it, for as many signatures, and did not load it."""
    return {
        f"{kernel.__module__}.{kernel.__name__}": sum(kernel.stats.cache_misses.values())
        for kernel in kernels
    }
