"""Copying runs of floats: Numba's own copies of slices count references, which costs more than short runs."""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FLOATS = types.Array(types.float32, 1, "C")


def _copy_floats(
    typing_context: Any, source: Any, start: Any, target: Any, place: Any, count: Any
) -> tuple[Any, Any]:
    """target[place + i] = source[start + i] for i below count; the two runs must not overlap."""
    signature = types.void(_FLOATS, types.int64, _FLOATS, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, start, target, place, count = arguments
        make = context.make_array(_FLOATS)
        read = builder.gep(make(context, builder, source).data, [start])
        written = builder.gep(make(context, builder, target).data, [place])
        cgutils.raw_memcpy(builder, written, read, count, 4)
        return context.get_dummy_value()

    return signature, generate


copy_floats: Callable[..., None] = intrinsic(_copy_floats)
