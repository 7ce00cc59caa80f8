"""Units of work that threads take one after the other, so that none waits for a slower one's share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dhhpc_kernels.recording import new_counters

_NUMBERS = types.Array(types.int64, 1, "C")


def new_turns(rounds: int = 1) -> np.ndarray:
    """Counters for one call of `run_parallel`: the next unit's number, in each round."""
    return new_counters(rounds)


def _take(typing_context: Any, turns: Any) -> tuple[Any, Any]:
    """The number of the next unit, which no other thread gets."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(_NUMBERS), generate


take_turn: Callable[..., int] = intrinsic(_take)
