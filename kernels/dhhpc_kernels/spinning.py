"""Waiting for another thread without giving the core away, as long as a sleeping one takes to wake up."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dhhpc_kernels.compilation import compile_function

_NUMBERS = types.Array(types.int64, 1, "C")
_HAS_PAUSE = binding.get_default_triple().startswith(("x86_64", "i686", "amd64"))


def _look(typing_context: Any, numbers: Any) -> tuple[Any, Any]:
    """numbers[0], read from memory each time, after a short rest of the core."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        if _HAS_PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            pause = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(pause, [])
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(data, "seq_cst", 8)

    return types.int64(_NUMBERS), generate


def _add(typing_context: Any, numbers: Any) -> tuple[Any, Any]:
    """Add 1 to numbers[0]; who sees it sees all that this thread has written before.

    In one order with every thread's `look_at`: of two threads that add and then look at what the other adds
    to, one at least sees the other's.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(_NUMBERS), generate


look_at: Callable[..., int] = intrinsic(_look)
add_one: Callable[..., None] = intrinsic(_add)


@compile_function
def spin(numbers: np.ndarray, seen: int, most: int) -> bool:
    """Whether numbers[0] (int64) is, or within `most` looks becomes, another number than `seen`."""
    looks = 0
    while looks < most and look_at(numbers) == seen:
        looks += 1
    return looks < most
