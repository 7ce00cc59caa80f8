"""Where the compiled code of a kernel begins that takes a call's arguments.

Numba looks that up at each call, argument by argument: many a microsecond for plans of twenty numbers, during
which every other thread waits for the interpreter. Here it is looked up once for all threads.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
from numba import types
from numba._dispatcher import compute_fingerprint

from dhhpc_kernels.cache_lines import aligned_zeros
from dhhpc_kernels.compilation import Kernel
from dhhpc_kernels.jobs import JOB_SIZE, run_written, write_job

_own = threading.local()


class Entry(NamedTuple):
    name: str
    write: Callable[..., int]  # `write_job` for such calls
    address: int  # of the compiled code, for `write_job`

    def run(self, call: tuple[Any, ...]) -> None:
        """Run the kernel on this thread. Raises RuntimeError if it fails."""
        place = getattr(_own, "place", None)
        if place is None:
            place = _own.place = aligned_zeros(JOB_SIZE)
        self.write(place, self.address, call)
        if run_written(place):
            raise kernel_failed(self.name)


def kernel_failed(name: str) -> RuntimeError:
    """The error for a kernel that failed: it has no other reason than memory for its scratch arrays."""
    return RuntimeError(f"{name} failed: there is no memory left for its scratch arrays")


_Tuple: Any = types.BaseTuple
_entries: dict[tuple[Callable[..., None], bytes], Entry] = {}


def is_kernel(task: Callable[..., None]) -> bool:
    """Whether it is compiled, so that it runs without the interpreter."""
    return isinstance(task, Kernel)


def find_entry(task: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> Entry | None:
    """The entry of a kernel for calls of the same types, compiled if need be; None for a Python function.

    Raises TypeError if the types differ.
    """
    if not is_kernel(task):
        return None
    first = calls[0]
    for call in calls[1:]:
        for one, other in zip(first, call, strict=True):
            if one is not other and compute_fingerprint(one) != compute_fingerprint(other):
                raise TypeError(
                    f"calls of {task.__name__} differ: {numba.typeof(one)} and {numba.typeof(other)}"
                )
    key = task, compute_fingerprint(first)
    found = _entries.get(key)
    if found is None:
        found = _entries[key] = _compile(task, first)
    return found


def _compile(kernel: Any, call: tuple[Any, ...]) -> Entry:
    kinds = tuple(numba.typeof(argument) for argument in call)
    code = _compiled(kernel, kinds)
    address = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
    if not address or code.signature.return_type != types.none:
        raise TypeError(f"{kernel.__name__} cannot run on other threads")
    place = numba.typeof(aligned_zeros(0))
    write = _compiled(write_job, (place, types.int64, _plain(types.Tuple(kinds))))
    return Entry(kernel.__name__, write.entry_point, address)


def _compiled(kernel: Any, kinds: tuple[Any, ...]) -> Any:
    kernel.compile(kinds)
    return kernel.overloads[kinds]


def _plain(kind: Any) -> Any:
    """The type with tuples in place of named ones.

    As much is written for both, and to load what was kept for those nobody needs to have the others' classes.
    """
    return types.Tuple([_plain(item) for item in kind]) if isinstance(kind, _Tuple) else kind
